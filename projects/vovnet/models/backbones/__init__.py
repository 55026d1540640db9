from .cifar import CIFARNet, cifar_arch_settings
from .dsod_densenet import DSODDenseNet
from .vovnet import VoVNet, arch_settings

__all__ = [
    'CIFARNet', 'DSODDenseNet', 'VoVNet', 'arch_settings',
    'cifar_arch_settings'
]
