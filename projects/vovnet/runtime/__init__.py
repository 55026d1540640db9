"""How training and testing are run: hooks for configs, steps for tools."""
from ..checkpoints.whole_file import WholeFileBackend
from .checkpoint_hook import WholeCheckpointHook
from .cpu import ChannelsLastHook
from .images_check_hook import ImagesCheckHook
from .load_check_hook import LoadCheckHook
from .resume_hook import ExactResumeHook

__all__ = [
    'ChannelsLastHook', 'ExactResumeHook', 'ImagesCheckHook', 'LoadCheckHook',
    'WholeCheckpointHook', 'WholeFileBackend'
]
