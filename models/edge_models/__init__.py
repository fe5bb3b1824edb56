"""Trains classifiers and embedders with torch, from folders of pictures to checkpoints and reports."""

import edge_app  # noqa: F401  # switches off the telemetry of ONNX Runtime before anything loads it
