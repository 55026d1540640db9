"""Whole detectors of detectron2, as mmdet's.

Sources, read for names and conventions only: facebookresearch/detectron2
(``modeling/{backbone/fpn,anchor_generator,box_regression,poolers}.py``,
``modeling/{proposal_generator,roi_heads}/*.py``), AdelaiDet@3672122
(``adet/modeling/fcos/fcos.py``) and centermask2@6adabd6, which names FCOS
alike.

The tensors are the same in both libraries, channel by channel: classes in
COCO's order with the background last, anchors by ratio, four deltas to each
class. What the numbers mean is in the config: anchors around multiples of the
stride, deltas times (10, 10, 5, 5) or, in mmdet's words, standard deviations
of (.1, .1, .2, .2), RoIAlign without a shift and with as many points as there
are pixels, BGR images less their mean. The tests compute all of it from
formulas and compare.
"""
import re
from collections.abc import Callable, Mapping
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
from .normalization import given_images, remember
from .publish import save_weights
from .variant import Normalization
from .weights import Weights, fit, interpret, unwrap

BACKBONE = 'backbone.bottom_up.'

# Before the leaf: detectron2's name, and what to call it in mmdet. P is the
# first level of the pyramid.
_NAMES: tuple[tuple[str, Callable[[re.Match, int], str]], ...] = (
    (r'backbone\.fpn_lateral(\d)',
     lambda m, p: f'neck.lateral_convs.{int(m[1]) - p}.conv'),
    (r'backbone\.(?:fpn_output|top_block\.p)(\d)',
     lambda m, p: f'neck.fpn_convs.{int(m[1]) - p}.conv'),
    (r'proposal_generator\.rpn_head\.conv', lambda m, p: 'rpn_head.rpn_conv'),
    (r'proposal_generator\.rpn_head\.objectness_logits',
     lambda m, p: 'rpn_head.rpn_cls'),
    (r'proposal_generator\.rpn_head\.anchor_deltas',
     lambda m, p: 'rpn_head.rpn_reg'),
    (r'roi_heads\.box_head\.fc(\d)',
     lambda m, p: f'roi_head.bbox_head.shared_fcs.{int(m[1]) - 1}'),
    (r'roi_heads\.box_predictor\.cls_score',
     lambda m, p: 'roi_head.bbox_head.fc_cls'),
    (r'roi_heads\.box_predictor\.bbox_pred',
     lambda m, p: 'roi_head.bbox_head.fc_reg'),
    (r'roi_heads\.mask_head\.mask_fcn(\d)',
     lambda m, p: f'roi_head.mask_head.convs.{int(m[1]) - 1}.conv'),
    (r'roi_heads\.mask_head\.deconv',
     lambda m, p: 'roi_head.mask_head.upsample'),
    (r'roi_heads\.mask_head\.predictor',
     lambda m, p: 'roi_head.mask_head.conv_logits'),
    # A tower is convolution, group norm, ReLU, convolution, ...
    (r'proposal_generator\.fcos_head\.(cls|bbox)_tower\.(\d+)',
     lambda m, p: f'bbox_head.{m[1].replace("bbox", "reg")}_convs.'
     f'{int(m[2]) // 3}.{("conv", "gn")[int(m[2]) % 3]}'),
    (r'proposal_generator\.fcos_head\.cls_logits',
     lambda m, p: 'bbox_head.conv_cls'),
    (r'proposal_generator\.fcos_head\.bbox_pred',
     lambda m, p: 'bbox_head.conv_reg'),
    (r'proposal_generator\.fcos_head\.ctrness',
     lambda m, p: 'bbox_head.conv_centerness'),
    (r'proposal_generator\.fcos_head\.scales\.(\d)',
     lambda m, p: f'bbox_head.scales.{m[1]}'),
)
# Constants that detectron2 saves with the weights.
_PIXELS = ('pixel_mean', 'pixel_std')
_ANCHORS = re.compile(
    r'proposal_generator\.anchor_generator\.cell_anchors\.(\d)')


class Detector(NamedTuple):
    """What a file of detectron2 held, tensor by tensor.

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
        source: A file of vovnet-detectron2 (Faster or Mask R-CNN), of
            AdelaiDet's FCOS or of centermask2, of which FCOS is taken; or its
            address.
        cfg: The config that builds the same detector, a ``*_d2-3x_coco.py``.
        target: The new file: ``{meta, state_dict}``, with the names of the
            classes.

    Returns:
        Detector: Where every tensor went.

    Raises:
        UserError: If the source cannot be read, is of another detector, or
            the config normalises images or places anchors otherwise.
        OSError: If the file cannot be written; nothing of it is left.
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
    """Fill a detector of mmdet; see :func:`convert_detectron2`.

    Args:
        model: The detector.
        checkpoint: What was loaded from the file.
        source: The file, for the message of an error.

    Raises:
        UserError: As there.
    """
    tensors = {key.removeprefix('module.'): value
               for key, value in unwrap(checkpoint, source).items()}
    if not is_detectron2(tensors):
        raise UserError(
            f'{source}: holds no detector of detectron2 (it holds '
            f'{next(iter(tensors))!r}, ...); weights of a backbone go into '
            "init_cfg=dict(type='Pretrained', checkpoint=...)")
    weights = interpret(tensors, source, BACKBONE)
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
            renamed[key] = _rename(key, min(levels, default=0), source)
    pixels = _check_pixels(model, tensors, source)
    for key in filter(_ANCHORS.fullmatch, compared):
        _check_anchors(model, key, tensors[key], source)
    state = {f'backbone.{key}': value for key, value in fit(
        model.backbone, weights.state_dict, weights.dialect, source).items()}
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    for key, name in renamed.items():
        # AdelaiDet's scales are vectors of one number, mmcv's are numbers.
        value = tensors[key]
        state[name] = (value.reshape(()) if shapes.get(name) == ()
                       and value.numel() == 1 else value)
    load_strict(model, state, source)
    remember(model.backbone, source, pixels)
    return Detector(weights, renamed, compared, left_out)


def _rename(key: str, first_level: int, source: str) -> str:
    begin, _, leaf = key.rpartition('.')
    for pattern, name in _NAMES:
        if found := re.fullmatch(pattern, begin):
            return f'{name(found, first_level)}.{leaf}'
    raise UserError(
        f'{source}: holds {key}, which no detector here has; Faster R-CNN, '
        'Mask R-CNN and FCOS can be converted')


def _check_pixels(model: nn.Module, tensors: Mapping[str, Tensor],
                  source: str) -> Normalization:
    """The config must normalise images as the file was trained."""
    trained = Normalization(*(
        tuple(round(value, 4) for value in tensors[key].flatten().tolist())
        if key in tensors else default
        for key, default in zip(_PIXELS, DETECTRON2)), bgr=True)
    given = given_images(model.data_preprocessor)
    if not given.bgr or not all(
            _same(torch.tensor(mine), torch.tensor(theirs),
                  tensors[key].dtype if key in tensors else torch.float)
            for key, mine, theirs in zip(_PIXELS, given, trained)):
        raise UserError(f'{source}: was trained with {trained}; set it in '
                        'the config')
    return given


def _check_anchors(model: nn.Module, key: str, anchors: Tensor,
                   source: str) -> None:
    """The config must have the anchors that are saved in the file."""
    if not hasattr(model, 'rpn_head'):
        raise UserError(
            f'{source}: is a detector with region proposals, the config '
            f'builds {type(model).__name__}; give the config that matches')
    level = int(_ANCHORS.fullmatch(key)[1])
    own = model.rpn_head.prior_generator.base_anchors
    if level >= len(own) or own[level].shape != anchors.shape or \
            not _same(own[level], anchors.float(), anchors.dtype):
        raise UserError(
            f'{source}: {key} are {anchors.tolist()}, not those of the '
            'config; correct anchor_generator of its rpn_head')


def _same(own: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Whether constants agree, as far as a file of ``dtype`` can say."""
    return torch.allclose(own, theirs, torch.finfo(dtype).eps, 1e-3)
