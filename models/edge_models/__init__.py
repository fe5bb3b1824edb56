"""Room 2, training: backbones, the classifier, the Siamese embedder, data checks, reports, and the evaluator.

Torch is imported by the modules that train; the evaluator (`evaluate`, `pairs`, `identify`, `intervals`) needs only
numpy. Flows in: folders of pictures. Flows out: checkpoints, reports, figures. `export` turns checkpoints into ONNX.
"""

import edge_app  # noqa: F401  # switches off the telemetry of ONNX Runtime before anything loads it
