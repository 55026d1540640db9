from .dsod_head import DSODHead
from .multibox_head import MultiBoxHead
from .refinedet_head import RefineDetHead, RefineMultiBoxHead

__all__ = [
    'DSODHead', 'MultiBoxHead', 'RefineDetHead', 'RefineMultiBoxHead'
]
