"""Inference with exported detectors; needs neither torch nor OpenMMLab::

    from vovnet.deploy.onnx import Detector
    found = Detector('retinanet.onnx').detect(cv2.imread('street.jpg'))
"""
from .detector import Detector

__all__ = ['Detector']
