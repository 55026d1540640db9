"""Fused inference, export and runtimes.

Imports nothing by itself: ``vovnet.deploy.onnx.detector`` works where torch is not
installed.
"""
