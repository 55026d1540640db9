"""VoVNet for OpenMMLab: backbones, detectors, recipes and measurements."""
from .version import __version__

__all__ = ['__version__']
