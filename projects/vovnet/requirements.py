"""The packages that this one cannot do without, and what to do about them.

Standard library only. The messages begin with ``vovnet needs``, by which
:mod:`vovnet_cli` knows them.
"""
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec

from .version import OLDEST_TORCH

MODELS = ('torch', 'torchvision', 'mmengine', 'mmcv', 'cv2', 'filelock',
          'pycocotools', 'tqdm', 'yaml')
# pkg_resources is of setuptools before 82; mmengine wants it in every run.
TOOLS = (*MODELS, 'mmdet', 'mmpretrain', 'PIL', 'matplotlib', 'numpy',
         'pkg_resources', 'psutil', 'rich', 'safetensors')

# What is often installed in a form that does not load.
FRAGILE = {
    'torch': 'pip install --force-reinstall torch torchvision',
    'torchvision': 'pip install --upgrade torch torchvision, which go '
                   'together',
    'cv2': 'pip uninstall -y opencv-python; pip install '
           'opencv-python-headless'}


def find_missing(names: Iterable[str]) -> str:
    """Say which packages are not installed; empty if all are."""
    missing = [name for name in names if find_spec(name) is None]
    return '' if not missing else (
        f"vovnet needs {', '.join(missing)}, not installed here: pip install "
        "'vovnet[openmmlab]' (in a checkout: make setup; for exported "
        'detectors alone: pip install onnxruntime)')


MISSING = find_missing(MODELS)


def check_packages() -> bool:
    """Tell whether models can be built; without, detectors may still be run.

    Raises:
        ImportError: Where neither works, or a package is too old or broken.
    """
    if MISSING:
        # Who has mmengine wants to build models.
        if find_spec('mmengine') or not (
                find_spec('onnxruntime') or find_spec('openvino')):
            raise ModuleNotFoundError(MISSING)
        return False
    for name, remedy in FRAGILE.items():
        try:
            import_module(name)
        except Exception as error:  # whatever their start-up meets
            raise ImportError(f'vovnet needs {name}, which does not load '
                              f'here ({error}): {remedy}') from error
    from torch import __version__ as version
    if release(version) < release(OLDEST_TORCH):
        raise ImportError(
            f'vovnet needs torch {OLDEST_TORCH} or later, this is {version}: '
            'pip install --upgrade torch torchvision')
    return True


def release(version: str) -> tuple[int, ...]:
    """Read major and minor version, of early releases too."""
    return tuple(map(int, version.split('.')[:2]))
