"""Other people's weights, and one's own: read as data, never as code."""
from .by_name import download_weights
from .detectron2 import convert_detectron2, load_detectron2
from .dialect import Dialect, Normalization
from .download import fetch
from .images import adopt_images, check_images
from .match import Match, get_state_dict, load_whole, match
from .metafiles import read_index, read_metafiles
from .model_zoo import update_page
from .pretrained import PretrainedVoVNet
from .publish import TARGETS, convert, publish
from .published import PUBLISHED, Published
from .safe_load import SAFE_GLOBALS, load_file
from .schemes import SCHEMES
from .timm_hub import timm_file
from .weights import Weights, interpret, read_weights, to_scheme

__all__ = [
    'PUBLISHED', 'SAFE_GLOBALS', 'SCHEMES', 'TARGETS', 'Dialect', 'Match',
    'Normalization', 'PretrainedVoVNet', 'Published', 'Weights',
    'adopt_images', 'check_images', 'convert', 'convert_detectron2',
    'download_weights', 'fetch', 'get_state_dict', 'interpret',
    'load_detectron2', 'load_file', 'load_whole', 'match', 'publish',
    'read_index', 'read_metafiles', 'read_weights', 'timm_file', 'to_scheme',
    'update_page'
]
