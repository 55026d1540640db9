"""Fast inference and export.

Imports nothing: ``vovnet.deploy.onnx`` also works without torch.
"""
