"""VoVNet for OpenMMLab: backbones, detectors, recipes and measurements.

Importing this package registers everything it builds, and changes in other
libraries what :mod:`vovnet.patches` lists: mmcv finds torchvision's operators
where it has none of its own, MMEngine reads checkpoints as data only and finds
this project's configs as ``vovnet::...``.

Without torch and OpenMMLab, but with onnxruntime or openvino, only
:mod:`vovnet.deploy.onnx.detector` works, which runs exported detectors.
"""
from .requirements import MISSING, check_packages
from .version import __version__

__all__ = ['checkpoints', 'datasets', 'models', 'ops', '__version__']

if check_packages():
    from .patches import apply_patches
    apply_patches()
    from . import checkpoints, datasets, models, ops


def __getattr__(name):
    """Explain why a part that needs torch is missing."""
    if MISSING and name in __all__:
        raise ModuleNotFoundError(MISSING)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
