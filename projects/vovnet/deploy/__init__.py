"""Fused inference, export and runtimes.

Imports nothing by itself: ``vovnet.deploy.runtime`` works where torch is not
installed.
"""
