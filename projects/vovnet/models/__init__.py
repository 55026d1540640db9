from .backbones import VoVNet, arch_settings

__all__ = ['VoVNet', 'arch_settings']
