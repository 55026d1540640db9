"""Training, testing and prediction: hooks for configs, steps for tools."""
from ..utils.atomic_file import WholeFileBackend
from .hooks import (
    ChannelsLastHook,
    ExactResumeHook,
    ImagesCheckHook,
    LoadCheckHook,
    WholeCheckpointHook,
)

__all__ = [
    'ChannelsLastHook', 'ExactResumeHook', 'ImagesCheckHook', 'LoadCheckHook',
    'WholeCheckpointHook', 'WholeFileBackend'
]
