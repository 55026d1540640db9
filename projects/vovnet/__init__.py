"""VoVNet for OpenMMLab: backbones, detectors, recipes and measurements.

Importing this package registers everything it builds and, where mmcv has no
compiled operators, offers torchvision's in their place (:mod:`vovnet.ops`).
From then on MMEngine reads checkpoints as data only
(:mod:`vovnet.checkpoints`).
"""
from . import ops  # isort: skip  # first: mmcv.cnn already asks for operators
from . import checkpoints, datasets, models
from .version import __version__

__all__ = ['checkpoints', 'datasets', 'models', 'ops', '__version__']
