"""VoVNet for OpenMMLab: backbones, detectors, recipes and measurements.

Importing this package registers everything it builds and, where mmcv has no
compiled operators, offers torchvision's in their place (:mod:`vovnet.ops`).
From then on MMEngine reads checkpoints as data only
(:mod:`vovnet.checkpoints`), and finds the configs of this project as
``vovnet::...`` (:mod:`vovnet.base_configs`).

Without torch and OpenMMLab only :mod:`vovnet.deploy.onnx.detector` works, which
runs exported detectors, where a package for these is installed.
"""
from .requirements import MISSING, check_packages
from .version import __version__

__all__ = ['base_configs', 'checkpoints', 'datasets', 'models', 'ops',
           '__version__']

if check_packages():
    from . import ops  # isort: skip  # first: mmcv.cnn asks for operators
    from . import base_configs, checkpoints, datasets, models


def __getattr__(name):
    """Say why a part that needs torch is not there."""
    if MISSING and name in __all__:
        raise ModuleNotFoundError(MISSING)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
