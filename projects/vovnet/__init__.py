"""VoVNet for OpenMMLab: backbones, detectors, recipes and measurements.

Importing this package registers everything it builds and, where mmcv has no
compiled operators, offers torchvision's in their place (:mod:`vovnet.ops`).
From then on MMEngine reads checkpoints as data only
(:mod:`vovnet.checkpoints`), and finds the configs of this project as
``vovnet::...`` (:mod:`vovnet.base_configs`).

Without torch and OpenMMLab only :mod:`vovnet.deploy.runtime` works, which
runs exported detectors, where a package for these is installed.
"""
from importlib.util import find_spec

from .version import OLDEST_TORCH, __version__

__all__ = ['base_configs', 'checkpoints', 'datasets', 'models', 'ops',
           '__version__']

_missing = [name for name in ('torch', 'torchvision', 'mmengine', 'mmcv')
            if find_spec(name) is None]
_remedy = (f"vovnet needs {', '.join(_missing)}, not installed here: pip "
           "install 'vovnet[openmmlab]' (in a checkout: make setup; for "
           'exported detectors alone: pip install onnxruntime)')

if not _missing:
    from torch import __version__ as _torch
    if _torch < OLDEST_TORCH:
        raise ImportError(f'vovnet needs torch {OLDEST_TORCH} or later, this '
                          f'is {_torch}: pip install --upgrade torch '
                          'torchvision')
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'vovnet needs OpenCV, which does not load here ({error}): pip '
            'uninstall -y opencv-python; pip install opencv-python-headless'
        ) from error
    from . import ops  # isort: skip  # first: mmcv.cnn asks for operators
    from . import base_configs, checkpoints, datasets, models
elif find_spec('mmengine') or not (
        find_spec('onnxruntime') or find_spec('openvino')):
    raise ModuleNotFoundError(_remedy)


def __getattr__(name):
    """Say why a part that needs torch is not there."""
    if name in __all__:
        raise ModuleNotFoundError(_remedy)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
