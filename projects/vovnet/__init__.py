"""VoVNet for OpenMMLab: backbones, detectors, recipes and measurements.

Importing this package registers everything it builds and, where mmcv has no
compiled operators, offers torchvision's in their place (:mod:`vovnet.ops`).
From then on MMEngine reads checkpoints as data only
(:mod:`vovnet.checkpoints`), and finds the configs of this project as
``vovnet::...`` (:mod:`vovnet.base_configs`).

Where torch, mmengine or mmcv is not installed, nothing is registered, and
:mod:`vovnet.deploy.runtime` runs exported detectors all the same.
"""
from importlib.util import find_spec

from .version import __version__

if all(map(find_spec, ('torch', 'mmengine', 'mmcv'))):
    from . import ops  # isort: skip  # first: mmcv.cnn asks for operators
    from . import base_configs, checkpoints, datasets, models

__all__ = ['base_configs', 'checkpoints', 'datasets', 'models', 'ops',
           '__version__']
