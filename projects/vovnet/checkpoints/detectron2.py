"""Conversion of detectron2's whole detectors to mmdet's.

The tensors are the same in both libraries, channel by channel: classes in
COCO's order with the background last, anchors by ratio, four deltas to each
class. What the numbers mean is in the config: anchors around multiples of the
stride, deltas times (10, 10, 5, 5) or, in mmdet's words, standard deviations
of (.1, .1, .2, .2), RoIAlign without a shift and with as many points as there
are pixels, BGR images less their mean.
"""
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from ..utils.errors import UserError
from .compare import is_detectron2, load_strict
from .known_weights import DETECTRON2
from .normalization import Normalization, WeightSource
from .publish import save_weights
from .weights import (
    Weights,
    find_state_dict,
    fit_to_model,
    parse_checkpoint,
    prefix_errors,
)

BACKBONE = 'backbone.bottom_up.'

# mmdet's names by detectron2's, without a leading 'proposal_generator.' and
# without the leaf. The number in a name counts levels of the pyramid, layers
# from 1 (index), or convolution, group norm, ReLU, ... of a tower.
_NAMES = {
    r'backbone\.fpn_lateral(\d)': 'neck.lateral_convs.{level}.conv',
    r'backbone\.fpn_output(\d)': 'neck.fpn_convs.{level}.conv',
    r'backbone\.top_block\.p(\d)': 'neck.fpn_convs.{level}.conv',
    r'rpn_head\.conv': 'rpn_head.rpn_conv',
    r'rpn_head\.objectness_logits': 'rpn_head.rpn_cls',
    r'rpn_head\.anchor_deltas': 'rpn_head.rpn_reg',
    r'roi_heads\.box_head\.fc(\d)': 'roi_head.bbox_head.shared_fcs.{index}',
    r'roi_heads\.box_predictor\.cls_score': 'roi_head.bbox_head.fc_cls',
    r'roi_heads\.box_predictor\.bbox_pred': 'roi_head.bbox_head.fc_reg',
    r'roi_heads\.mask_head\.mask_fcn(\d)':
        'roi_head.mask_head.convs.{index}.conv',
    r'roi_heads\.mask_head\.deconv': 'roi_head.mask_head.upsample',
    r'roi_heads\.mask_head\.predictor': 'roi_head.mask_head.conv_logits',
    r'fcos_head\.cls_tower\.(\d+)': 'bbox_head.cls_convs.{layer}.{kind}',
    r'fcos_head\.bbox_tower\.(\d+)': 'bbox_head.reg_convs.{layer}.{kind}',
    r'fcos_head\.cls_logits': 'bbox_head.conv_cls',
    r'fcos_head\.bbox_pred': 'bbox_head.conv_reg',
    r'fcos_head\.ctrness': 'bbox_head.conv_centerness',
    r'fcos_head\.scales\.(\d)': 'bbox_head.scales.{number}',
}
# Constants that detectron2 saves with the weights.
_PIXELS = ('pixel_mean', 'pixel_std')
_ANCHORS = re.compile(
    r'proposal_generator\.anchor_generator\.cell_anchors\.(\d)')


class Detector(NamedTuple):
    """Content of a file of detectron2, tensor by tensor.

    Attributes:
        backbone: Its VoVNet.
        renamed: mmdet's name of every other tensor of the detector, by
            detectron2's.
        compared: Constants of the file that the config has too.
        left_out: CenterMask's mask branch, behind FCOS.
    """
    backbone: Weights
    renamed: dict[str, str]
    compared: list[str]
    left_out: list[str]

    def __str__(self) -> str:
        left_out = (f', {len(self.left_out)} of a mask branch left out'
                    if self.left_out else '')
        return (f'{len(self.backbone.state_dict)} tensors of the backbone, '
                f'{len(self.renamed)} of neck and heads, '
                f'{len(self.compared)} constants as in the config{left_out}')


def convert_detectron2(source: str, cfg: Config, target: str) -> Detector:
    """Write a detector of detectron2 as a checkpoint of mmdet.

    Args:
        source: Path or URL of a file of vovnet-detectron2 (Faster or Mask
            R-CNN), AdelaiDet (FCOS) or centermask2 (its FCOS).
        cfg: The config that builds the same detector, a ``*_d2-3x_coco.py``.
        target: The new file: ``{meta, state_dict}``, with the class names.

    Raises:
        UserError: If the source is of another detector, or the config
            normalizes images or places anchors otherwise.
    """
    if 'backbone' not in cfg.get('model', {}) or \
            'test_dataloader' not in cfg or \
            cfg.get('default_scope', 'mmdet') != 'mmdet':
        raise UserError(f'config {cfg.filename}: builds no detector of mmdet; '
                        'give a *_d2-3x_coco.py')
    checkpoint = CheckpointLoader.load_checkpoint(source, 'cpu', 'silent')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        classes = DATASETS.build(
            {**cfg.test_dataloader.dataset, 'lazy_init': True}).metainfo
    found = load_detectron2(model, checkpoint, source)
    save_weights(model.state_dict(), target, dict(
        dataset_meta=classes, source=source, scheme='detectron2'))
    return found


def load_detectron2(model: nn.Module, checkpoint: Mapping, source: str
                    ) -> Detector:
    """Fill a detector of mmdet; see :func:`convert_detectron2`."""
    tensors = {key.removeprefix('module.'): value
               for key, value in find_state_dict(checkpoint).items()}
    if not is_detectron2(tensors):
        raise UserError(
            f'{source}: holds no detector of detectron2 (it holds '
            f'{next(iter(tensors), "nothing")!r}, ...); weights of a backbone '
            "go into init_cfg=dict(type='Pretrained', checkpoint=...)")
    weights = parse_checkpoint(tensors, source, BACKBONE)
    with prefix_errors(source):
        renamed, compared, left_out = _sort_names(tensors)
        pixels = _check_pixels(model, tensors)
        for key in filter(_ANCHORS.fullmatch, compared):
            _check_anchors(model, key, tensors[key])
        backbone = fit_to_model(model.backbone, weights)
    state = {f'backbone.{key}': value for key, value in backbone.items()}
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    for key, name in renamed.items():
        # AdelaiDet's scales are vectors of one number, mmcv's are numbers.
        value = tensors[key]
        state[name] = (value.reshape(()) if shapes.get(name) == ()
                       and value.numel() == 1 else value)
    load_strict(model, state, source)
    model.backbone.weight_source = WeightSource(source, pixels)
    return Detector(weights, renamed, compared, left_out)


def _sort_names(tensors: Mapping[str, Tensor]
                ) -> tuple[dict[str, str], list[str], list[str]]:
    """Sort the names beside the backbone into the fields of Detector."""
    renamed, compared, left_out = {}, [], []
    levels = [int(found[1]) for key in tensors
              if (found := re.match(r'backbone\.fpn_lateral(\d)', key))]
    is_fcos = any('.fcos_head.' in key for key in tensors)
    for key in tensors:
        if key.startswith(BACKBONE):
            continue
        if key in _PIXELS or _ANCHORS.fullmatch(key):
            compared.append(key)
        elif is_fcos and key.startswith('roi_heads.'):
            left_out.append(key)
        else:
            renamed[key] = _rename(key, min(levels, default=0))
    return renamed, compared, left_out


def _rename(key: str, first_level: int) -> str:
    begin, _, leaf = key.removeprefix('proposal_generator.').rpartition('.')
    for pattern, template in _NAMES.items():
        if found := re.fullmatch(pattern, begin):
            number = int(found[1]) if found.groups() else 0
            name = template.format(
                number=number, index=number - 1, level=number - first_level,
                layer=number // 3, kind=('conv', 'gn', 'relu')[number % 3])
            return f'{name}.{leaf}'
    raise UserError(
        f'holds {key}, which no detector here has; Faster R-CNN, Mask R-CNN '
        'and FCOS can be converted')


def _check_pixels(model: nn.Module, tensors: Mapping[str, Tensor]
                  ) -> Normalization:
    """Return the config's normalization, which must be the file's."""
    trained = Normalization(*(
        tuple(round(value, 4) for value in tensors[key].flatten().tolist())
        if key in tensors else default
        for key, default in zip(_PIXELS, DETECTRON2)), bgr=True)
    given = Normalization.from_preprocessor(model.data_preprocessor)
    if not given.bgr or not all(
            _is_close(torch.tensor(mine), torch.tensor(theirs),
                      tensors[key].dtype if key in tensors else torch.float)
            for key, mine, theirs in zip(_PIXELS, given, trained)):
        raise UserError(f'was trained with {trained}; set it in the config')
    return given


def _check_anchors(model: nn.Module, key: str, anchors: Tensor) -> None:
    """Refuse a config with other anchors than the file's."""
    if not hasattr(model, 'rpn_head'):
        raise UserError(
            'is a detector with region proposals, the config builds '
            f'{type(model).__name__}; give the config that matches')
    level = int(_ANCHORS.fullmatch(key)[1])
    own = model.rpn_head.prior_generator.base_anchors
    if level >= len(own) or own[level].shape != anchors.shape or \
            not _is_close(own[level], anchors.float(), anchors.dtype):
        raise UserError(
            f'{key} are {anchors.tolist()}, not those of the config; correct '
            'anchor_generator of its rpn_head')


def _is_close(own: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Compare constants with the precision of the file's ``dtype``."""
    return torch.allclose(own, theirs, torch.finfo(dtype).eps, 1e-3)
