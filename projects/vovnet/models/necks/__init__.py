from .dsod_neck import DSODNeck
from .pelee_neck import PeleeNeck
from .refinedet_neck import RefineDetNeck

__all__ = ['DSODNeck', 'PeleeNeck', 'RefineDetNeck']
