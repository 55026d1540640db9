"""Weights of this and other projects, read as data, never as code."""
from .compare import Comparison, get_state_dict, load_strict, match_weights
from .detectron2 import convert_detectron2, load_detectron2
from .download import fetch
from .fetch_by_name import download_weights
from .key_maps import SCHEMES
from .known_weights import KNOWN_WEIGHTS, KnownWeights
from .metafiles import read_index, read_metafiles
from .model_zoo import update_page
from .normalization import (
    Normalization,
    check_normalization,
    record_normalization,
)
from .pretrained import PretrainedVoVNet
from .publish import TARGETS, convert, export_weights, publish
from .safe_load import SAFE_GLOBALS, load_file
from .variant import Variant
from .weights import Weights, parse_checkpoint, read_weights

__all__ = [
    'KNOWN_WEIGHTS', 'SAFE_GLOBALS', 'SCHEMES', 'TARGETS', 'Comparison',
    'KnownWeights', 'Normalization', 'PretrainedVoVNet', 'Variant', 'Weights',
    'check_normalization', 'convert', 'convert_detectron2',
    'download_weights', 'export_weights', 'fetch', 'get_state_dict',
    'load_detectron2', 'load_file', 'load_strict', 'match_weights',
    'parse_checkpoint', 'publish', 'read_index', 'read_metafiles',
    'read_weights', 'record_normalization', 'update_page'
]
