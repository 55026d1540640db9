from .cifar import CIFARNet, cifar_arch_settings
from .vovnet import VoVNet, arch_settings

__all__ = ['CIFARNet', 'VoVNet', 'arch_settings', 'cifar_arch_settings']
