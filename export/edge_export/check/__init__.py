"""Whether an ONNX file agrees with what it was made from."""
