"""Exports: torch checkpoints and files of other packages become ONNX files, compared with their origin before they are
kept.
"""

import edge_app  # noqa: F401  # switches off the telemetry of ONNX Runtime before anything loads it
