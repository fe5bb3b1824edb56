"""ONNX graphs: from torch, rewritten, quantized, with their card."""
