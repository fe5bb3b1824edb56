"""One ONNX file as a model: detector, landmarks, embedder, classifier, face quality."""
