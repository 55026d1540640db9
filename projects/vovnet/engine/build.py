"""From a config to a network that runs on zeros, without a data set.

Own work on mmdet 3.3.0 and mmengine 0.10.7. mmdet's ``get_flops.py`` needs
the validation images and lets the RoI heads work on as many proposals as NMS
leaves of random scores; here their number is the config's, so that a count can
be repeated.
"""
import copy
from math import ceil

from mmdet.models.dense_heads import SSDHead
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import is_installed
from torch import nn

from ..checkpoints import get_state_dict, load_strict
from ..utils.errors import UserError
from .launch import load_config

PARTS = ('detector', 'backbone')


def load_any_config(path: str, options: dict | None = None) -> Config:
    """Read a config file, also one of an installed package.

    Args:
        path (str): As :func:`vovnet.engine.launch.load_config` takes it, or
            such as ``mmdet::retinanet/retinanet_r50_fpn_1x_coco.py``.
        options (dict, optional): What ``--cfg-options`` gave.

    Returns:
        Config: With the options merged.

    Raises:
        UserError: If there is no such package or file, or it or the options
            are wrong.
    """
    package, colons, file = path.partition('::')
    if not colons:
        return load_config(path, options)
    # MMEngine would install a package that is not there.
    if not is_installed(package) or '/' not in file:
        raise UserError(f'config {path}: name it as mmdet::folder/file.py, '
                        'of a package that is installed')
    try:
        cfg = get_config(path)
    except Exception as error:  # a config is code, and may fail in any way
        raise UserError(f'config {path}: {error}; check the path') from error
    # The file that was found also takes the options, with their errors.
    return load_config(cfg.filename, options)


def timm_config(name: str) -> Config:
    """Config of a network of timm that gives maps, as a backbone does.

    Args:
        name (str): As timm names it, such as ``ese_vovnet39b``.

    Returns:
        Config: Of mmpretrain's ``TIMMBackbone``, for ``part='backbone'``:
        the stages' maps, from stride 4 on; random weights.

    Raises:
        UserError: If timm is not installed, or has no such network.
    """
    if not is_installed('timm'):
        raise UserError(f'--timm {name}: timm is not installed; run `pip '
                        'install timm`')
    import timm
    if not timm.is_model(name):
        like = ', '.join(timm.list_models(f'*{name[-8:]}*')[:5])
        raise UserError(f'--timm {name}: timm has no such network'
                        f'{like and f"; like it: {like}"}')
    return Config(
        dict(default_scope='mmpretrain', model=dict(
            type='ImageClassifier', backbone=dict(
                type='TIMMBackbone', model_name=name, features_only=True,
                out_indices=(1, 2, 3, 4)))),
        cfg_text=' ', filename=f'timm {name}')


def build_network(cfg: Config, part: str = 'detector') -> nn.Module:
    """Build the model of a config, or its backbone, with random weights.

    Args:
        cfg (Config): A detector's or a classifier's.
        part (str): 'detector', which is the whole model whatever it does, or
            'backbone'.

    Returns:
        nn.Module: On the CPU.

    Raises:
        UserError: If the config has no backbone.
    """
    _backbone(cfg)
    model = copy.deepcopy(cfg.model)  # DETR's head changes its config
    # MMEngine's runner does the same; mmpretrain's configs count on it.
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    network = MODELS.build(model.backbone if part == 'backbone' else model)
    for module in network.modules():
        # mmdet 3.3.0's SSDHead has none, and cannot predict without.
        if isinstance(module, SSDHead) and not hasattr(module, 'loss_cls'):
            module.loss_cls = None
    return revert_sync_batchnorm(network)


def load_network(cfg: Config, checkpoint: str,
                 part: str = 'detector') -> nn.Module:
    """Build the model of a config with trained weights, without its data.

    Args:
        cfg (Config): A detector's or a classifier's.
        checkpoint (str): A file or a URL. It is read as data.
        part (str): 'detector', the whole model whatever it does, or
            'backbone': of the checkpoint of a whole model only the backbone
            is taken, so that the rest need not match.

    Returns:
        nn.Module: On the CPU, every tensor of it from the checkpoint.

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


def _backbone(cfg: Config) -> dict:
    model = cfg.get('model')
    kind = model.get('type') if isinstance(model, dict) else model
    if not (isinstance(model, dict) and model.get('backbone')):
        raise UserError(
            f'config {cfg.filename}: has no model.backbone (model: {kind}); '
            'give the config of a detector or a classifier')
    return model['backbone']


def input_shape(cfg: Config, shape: list[int] | None = None,
                part: str = 'detector') -> tuple:
    """Shape of one image as the network gets it.

    Args:
        cfg (Config): Its test pipeline gives the size where none is asked
            for: the last step that resizes or crops.
        shape (list[int], optional): Height and width, or one number for
            both, px.
        part (str): See :func:`build_network`.

    Returns:
        tuple: (1, channels, height, width). For a whole model padded to a
        multiple of ``pad_size_divisor``, as the data preprocessor does.

    Raises:
        UserError: If the shape is none, or the pipeline does not say.
    """
    size = _pipeline_size(cfg) if shape is None else tuple(shape)
    if len(size) not in (1, 2) or min(size) < 1:
        raise UserError(f'--shape {" ".join(map(str, size))}: give height '
                        'and width, or one number for both, at least 1')
    divisor = 1 if part == 'backbone' else (
        cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
    height, width = (ceil(n / divisor) * divisor for n in (size * 2)[:2])
    return 1, _backbone(cfg).get('in_channels', 3), height, width


def _pipeline_size(cfg: Config) -> tuple:
    steps = get_test_pipeline_cfg(cfg) if 'test_dataloader' in cfg else []
    for step in reversed(steps):
        kind = str(step['type']).rpartition('.')[-1]
        if kind.endswith('Crop') and step.get('crop_size'):
            crop = step['crop_size']
            return (crop, ) if isinstance(crop, int) else tuple(crop)
        if kind.endswith('Resize') and step.get('scale'):
            scale = step['scale']
            return (scale, ) if isinstance(scale, int) else scale[::-1]
    raise UserError(f'config {cfg.filename}: its test pipeline sets no size; '
                    'give --shape')
