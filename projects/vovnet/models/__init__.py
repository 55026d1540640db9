from importlib.util import find_spec

from .backbones import (
    CIFARNet,
    DSODDenseNet,
    MobileNetV1,
    PeleeNet,
    VoVNet,
    VoVNetCP,
    arch_settings,
    cifar_arch_settings,
)

# The backbones serve the other OpenMMLab libraries too, without mmdet.
if find_spec('mmdet'):
    from . import dense_heads, necks, task_modules  # noqa: F401
    from .backbones import refinedet_caffe  # noqa: F401

__all__ = [
    'CIFARNet', 'DSODDenseNet', 'MobileNetV1', 'PeleeNet', 'VoVNet',
    'VoVNetCP', 'arch_settings', 'cifar_arch_settings'
]
