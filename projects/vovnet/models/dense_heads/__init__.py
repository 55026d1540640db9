from .dsod_head import DSODHead
from .multibox_head import MultiBoxHead

__all__ = ['DSODHead', 'MultiBoxHead']
