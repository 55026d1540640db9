from importlib.util import find_spec

from .backbones import CIFARNet, VoVNet, arch_settings, cifar_arch_settings

# The backbones serve the other OpenMMLab libraries too, without mmdet.
if find_spec('mmdet'):
    from . import task_modules  # noqa: F401

__all__ = ['CIFARNet', 'VoVNet', 'arch_settings', 'cifar_arch_settings']
