"""Fused inference, export and runtimes.

Imports nothing itself: :mod:`vovnet.deploy.onnx` works without torch.
"""
