"""The packages that this one cannot do without, and what to do about them.

Standard library only. The messages begin with ``vovnet needs``, by which
:mod:`vovnet_cli` knows them.
"""
from importlib import import_module
from importlib.util import find_spec

from .version import OLDEST_TORCH

MISSING = [name for name in ('torch', 'torchvision', 'mmengine', 'mmcv')
           if find_spec(name) is None]
REMEDY = (f"vovnet needs {', '.join(MISSING)}, not installed here: pip "
          "install 'vovnet[openmmlab]' (in a checkout: make setup; for "
          'exported detectors alone: pip install onnxruntime)')

# What is often installed in a form that does not load.
FRAGILE = {
    'torchvision': 'pip install --upgrade torch torchvision, of which each '
                   'version wants its own of the other',
    'cv2': 'pip uninstall -y opencv-python; pip install '
           'opencv-python-headless'}


def check_packages() -> bool:
    """Tell whether models can be built; without, detectors may still be run.

    Raises:
        ImportError: Where neither works, or a package is too old or broken.
    """
    if MISSING:
        # Who has mmengine wants to build models.
        if find_spec('mmengine') or not (
                find_spec('onnxruntime') or find_spec('openvino')):
            raise ModuleNotFoundError(REMEDY)
        return False
    from torch import __version__ as version
    if version < OLDEST_TORCH:
        raise ImportError(
            f'vovnet needs torch {OLDEST_TORCH} or later, this is {version}: '
            'pip install --upgrade torch torchvision')
    for name, remedy in FRAGILE.items():
        try:
            import_module(name)
        except Exception as error:  # whatever their start-up meets
            raise ImportError(f'vovnet needs {name}, which does not load '
                              f'here ({error}): {remedy}') from error
    return True
