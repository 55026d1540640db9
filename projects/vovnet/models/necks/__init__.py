from .dsod_neck import DSODNeck
from .refinedet_neck import RefineDetNeck

__all__ = ['DSODNeck', 'RefineDetNeck']
