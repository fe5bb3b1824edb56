"""Room 3, the gate: origins and torch checkpoints become ONNX files with cards, compared before they get a name.

Hides graph surgery, torch's exporters, quantization and the comparison. In: files of other packages, torch modules.
Out: `*.onnx` with a card inside and the manifest that pins them. Nothing in the laptop's room imports this one.
"""

import edge_app  # noqa: F401  # switches off the telemetry of ONNX Runtime before anything loads it
