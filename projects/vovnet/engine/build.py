"""Build networks from configs, without a data set."""
import copy
from math import ceil

from mmdet.models.dense_heads import SSDHead
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from ..checkpoints import get_state_dict, load_strict
from ..utils.errors import UserError

PARTS = ('detector', 'backbone')


def build_network(cfg: Config, part: str = 'detector') -> nn.Module:
    """Build the model of a config, or its backbone, with random weights.

    Args:
        cfg: The config of a detector or a classifier.
        part: 'detector' for the whole model, of whatever task, or 'backbone'.

    Returns:
        The network, on the CPU.

    Raises:
        UserError: If the config has no backbone.
    """
    _get_backbone(cfg)
    model = copy.deepcopy(cfg.model)  # DETR's head changes its config
    # MMEngine's runner does the same; mmpretrain's configs count on it.
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    network = MODELS.build(model.backbone if part == 'backbone' else model)
    for module in network.modules():
        # mmdet 3.3.0's SSDHead lacks loss_cls, but needs it to predict.
        if isinstance(module, SSDHead) and not hasattr(module, 'loss_cls'):
            module.loss_cls = None
    return revert_sync_batchnorm(network)


def load_network(cfg: Config, checkpoint: str,
                 part: str = 'detector') -> nn.Module:
    """Build the model of a config, or its backbone, with trained weights.

    Args:
        cfg: The config of a detector or a classifier.
        checkpoint: A file or a URL. For 'backbone' it may hold a whole model,
            of which only the backbone has to match.
        part: As for :func:`build_network`.

    Returns:
        The network, on the CPU, every tensor from the checkpoint.

    Raises:
        UserError: If the config has no backbone, or the checkpoint cannot be
            read or is of another model.
    """
    network = build_network(cfg, part)
    name = f'checkpoint {checkpoint}'
    weights = get_state_dict(
        CheckpointLoader.load_checkpoint(checkpoint, 'cpu'), name)
    if part == 'backbone':
        weights = {key.removeprefix('backbone.'): value
                   for key, value in weights.items()
                   if key.startswith('backbone.')} or weights
    load_strict(network, weights, name, '' if part == 'backbone' else (
        ', or --part backbone if only the rest of the model differs'))
    return network


def _get_backbone(cfg: Config) -> dict:
    model = cfg.get('model')
    kind = model.get('type') if isinstance(model, dict) else model
    if not (isinstance(model, dict) and model.get('backbone')):
        raise UserError(
            f'config {cfg.filename}: has no model.backbone (model: {kind}); '
            'give the config of a detector or a classifier')
    return model['backbone']


def get_input_shape(cfg: Config, shape: list[int] | None = None,
                    part: str = 'detector') -> tuple[int, int, int, int]:
    """Return the shape of one image as the network gets it.

    Args:
        cfg: Its test pipeline sets the size if ``shape`` is None: the last
            step that resizes or crops.
        shape: Height and width, or one number for both, px.
        part: As for :func:`build_network`. A whole model's image is padded to
            a multiple of the data preprocessor's ``pad_size_divisor``.

    Returns:
        (1, channels, height, width).

    Raises:
        UserError: If the shape is invalid, or the pipeline sets no size.
    """
    size = _get_pipeline_size(cfg) if shape is None else tuple(shape)
    if len(size) not in (1, 2) or min(size) < 1:
        raise UserError(f'--shape {" ".join(map(str, size))}: give height '
                        'and width, or one number for both, at least 1')
    divisor = 1 if part == 'backbone' else (
        cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    height, width = (ceil(n / divisor) * divisor for n in (size * 2)[:2])
    return 1, _get_backbone(cfg).get('in_channels', 3), height, width


def _get_pipeline_size(cfg: Config) -> tuple:
    steps = get_test_pipeline_cfg(cfg) if 'test_dataloader' in cfg else []
    for step in reversed(steps):
        kind = str(step['type']).rpartition('.')[-1]
        if kind.endswith('Crop') and step.get('crop_size'):
            size = step['crop_size']  # (height, width)
        elif kind.endswith('Resize') and step.get('scale'):
            size = step['scale']  # (width, height)
            size = size if isinstance(size, int) else size[::-1]
        else:
            continue
        return (size, ) if isinstance(size, int) else tuple(size)
    raise UserError(f'config {cfg.filename}: its test pipeline sets no size; '
                    'give --shape')
