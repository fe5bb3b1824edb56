"""Exports torch checkpoints and networks of other packages to ONNX files that agree with their origin."""

import edge_app  # noqa: F401  # switches off the telemetry of ONNX Runtime before anything loads it
