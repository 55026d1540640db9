"""Training, testing and prediction: steps for tools and hooks."""
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
