"""Trained detectors to ONNX files, verified against the model."""
