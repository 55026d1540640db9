from .cifar import CIFARNet, cifar_arch_settings
from .dsod_densenet import DSODDenseNet
from .mobilenet_v1 import MobileNetV1
from .peleenet import PeleeNet
from .vovnet import VoVNet, arch_settings
from .vovnet_cp import VoVNetCP

__all__ = [
    'CIFARNet', 'DSODDenseNet', 'MobileNetV1', 'PeleeNet', 'VoVNet',
    'VoVNetCP', 'arch_settings', 'cifar_arch_settings'
]
