from .channels_last_hook import ChannelsLastHook
from .checkpoint_hook import WholeCheckpointHook
from .load_check_hook import LoadCheckHook
from .normalization_check_hook import ImagesCheckHook
from .resume_hook import ExactResumeHook

__all__ = [
    'ChannelsLastHook', 'ExactResumeHook', 'ImagesCheckHook', 'LoadCheckHook',
    'WholeCheckpointHook'
]
