"""Fast inference and export.

Imports nothing itself: :mod:`vovnet.deploy.onnx` works without torch.
"""
