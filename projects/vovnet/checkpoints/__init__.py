"""Other people's weights, and one's own: read as data, never as code."""
from .match import Match, get_state_dict, load_whole, match
from .safe_load import SAFE_GLOBALS, load_file

__all__ = [
    'SAFE_GLOBALS', 'Match', 'get_state_dict', 'load_file', 'load_whole',
    'match'
]
