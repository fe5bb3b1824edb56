"""Who is enrolled: storage, matching, thresholds, calibration, the enrollment gate."""
