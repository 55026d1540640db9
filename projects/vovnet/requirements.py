"""The packages that vovnet needs, and what to do where they are missing.

Standard library only. :mod:`vovnet_cli` recognizes the messages by their
beginning, ``vovnet needs``.
"""
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec

from .version import OLDEST_TORCH

MODELS = ('torch', 'torchvision', 'mmengine', 'mmcv', 'cv2', 'filelock',
          'pycocotools', 'tqdm', 'yaml')
# mmengine needs pkg_resources, which setuptools has before version 82.
TOOLS = (*MODELS, 'mmdet', 'mmpretrain', 'PIL', 'matplotlib', 'numpy',
         'pkg_resources', 'psutil', 'rich', 'safetensors')

# What is often installed in a way that does not load.
FRAGILE = {
    'torch': 'pip install --force-reinstall torch torchvision',
    'torchvision': 'pip install --upgrade torch torchvision, which go '
                   'together',
    'cv2': 'pip uninstall -y opencv-python; pip install '
           'opencv-python-headless'}


def find_missing(names: Iterable[str]) -> str:
    """Say which packages are not installed; empty if all are."""
    missing = [name for name in names if find_spec(name) is None]
    if not missing:
        return ''
    return (f"vovnet needs {', '.join(missing)}, not installed here: pip "
            "install 'vovnet[openmmlab]' (in a checkout: make setup; for "
            'exported detectors alone: pip install onnxruntime)')


MISSING = find_missing(MODELS)


def check_packages() -> bool:
    """Tell whether models can be built, or only exported detectors be run.

    Raises:
        ImportError: If neither works, or a package is too old or broken.
    """
    if MISSING:
        # Whoever has mmengine wants to build models.
        if find_spec('mmengine') or not (
                find_spec('onnxruntime') or find_spec('openvino')):
            raise ModuleNotFoundError(MISSING)
        return False
    for name, remedy in FRAGILE.items():
        try:
            import_module(name)
        except Exception as error:  # of any kind, from a package's start
            raise ImportError(f'vovnet needs {name}, which does not load '
                              f'here ({error}): {remedy}') from error
    from torch import __version__ as version
    if parse_release(version) < parse_release(OLDEST_TORCH):
        raise ImportError(
            f'vovnet needs torch {OLDEST_TORCH} or later, this is {version}: '
            'pip install --upgrade torch torchvision')
    return True


def parse_release(version: str) -> tuple[int, ...]:
    """Return the major and minor version."""
    return tuple(map(int, version.split('.')[:2]))
