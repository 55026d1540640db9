"""Inference with exported detectors; needs neither torch nor OpenMMLab."""
from .detector import Detector

__all__ = ['Detector']
