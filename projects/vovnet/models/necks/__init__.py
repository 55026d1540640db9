from .dsod_neck import DSODNeck

__all__ = ['DSODNeck']
