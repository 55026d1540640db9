from .backbones import CIFARNet, VoVNet, arch_settings, cifar_arch_settings

__all__ = ['CIFARNet', 'VoVNet', 'arch_settings', 'cifar_arch_settings']
