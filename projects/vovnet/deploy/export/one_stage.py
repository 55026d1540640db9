"""One-stage detectors as one graph each, from the pixels to the boxes.

Own work. The decoding repeats mmdet 3.3.0's (``BaseDenseHead``,
``filter_scores_and_topk``, ``DeltaXYWHBBoxCoder``,
``DistancePointBBoxCoder``, mmcv 2.1.0's ``batched_nms``; read, not copied)
and this project's (``MultiBoxHead``, ``RefineDetHead``) in operations that
both exporters can write: mmdet's own go other ways while they are traced,
through the module ``mmdet.core``, which is gone. ``torchvision.ops.nms``
becomes ONNX's NonMaxSuppression.

What differs, without changing what is found: candidates are sorted first and
compared with the threshold then; boxes leave the graph in px of its input,
and whoever runs it divides by the scale.
"""
from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import log

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.task_modules import (
    DeltaXYWHBBoxCoder,
    DistancePointBBoxCoder,
)
from mmengine.config import Config
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from ...models.dense_heads import MultiBoxHead, RefineDetHead
from ...models.dense_heads.refinedet_head import flatten
from ...utils.errors import UserError
from .graph import Graph, image_input, try_shape

Candidates = tuple[Tensor, Tensor, Tensor]
"""Boxes (n, 4), scores (n, ) and labels (n, )."""


def build(model: nn.Module, cfg: Config, shape: tuple[int, int], *,
          dynamic: bool, normalize: bool,
          maps: bool) -> tuple[list[Graph], dict]:
    """Make the graph of a one-stage detector.

    Args:
        model: In eval mode.
        cfg: Its config (not read).
        shape: Height and width of the input, px.
        dynamic: Whether they are free.
        normalize: Whether the graph normalises.
        maps: Stop at the head's maps.

    Returns:
        tuple: The graph, and for the metadata ``kind`` and ``test``.

    Raises:
        UserError: If the head is decoded in a way that is not known here, or
            the network cannot take the shape.
    """
    decoder = _decoder(model)
    start, image = image_input(model.data_preprocessor, shape, normalize)
    network = OneStage(model, start, None if maps else decoder).eval()
    inputs = dict(image=image, size=torch.tensor(shape))
    found = try_shape(network.maps, inputs, shape)
    top = 1 if normalize else 2
    axes = dict(image={top: 'height', top + 1: 'width'}) if dynamic else {}
    if maps:
        if not normalize:
            del inputs['size']
        outputs = [f'{part}_{i}' for part, levels in zip(decoder.parts, found)
                   for i in range(len(levels))]
        if dynamic:
            axes |= {name: {2: f'{name}_height', 3: f'{name}_width'}
                     for name in outputs}
        return [Graph('', network, inputs, outputs, axes)], dict(kind='maps')
    if not dynamic:
        decoder.fix_priors([x.shape[-2:] for x in found[0]])
    outputs = ['boxes', 'scores', 'labels']
    axes |= {name: {0: 'found'} for name in outputs}
    test = decoder.test
    return [Graph('', network, inputs, outputs, axes)], dict(
        kind='one_stage',
        test=dict(score_thr=test.get('score_thr', 0), nms=dict(test.nms),
                  max_per_img=test.max_per_img))


def _decoder(model: SingleStageDetector) -> 'Decoder':
    """Find out how a detector makes boxes of its maps."""
    head = model.bbox_head
    ways = {
        BaseDenseHead._predict_by_feat_single: DenseDecoder,
        MultiBoxHead._predict_by_feat_single: MultiBoxDecoder,
    }
    plain = (type(model).predict is SingleStageDetector.predict
             and type(head).predict is BaseDenseHead.predict
             and type(head)._bbox_post_process
             is BaseDenseHead._bbox_post_process)
    if type(head).predict_by_feat is RefineDetHead.predict_by_feat:
        way = RefineDetDecoder
    elif type(head).predict_by_feat is BaseDenseHead.predict_by_feat:
        way = ways.get(type(head)._predict_by_feat_single)
    else:
        way = None
    if not (plain and way):
        raise UserError(
            f'{type(model).__name__} with {type(head).__name__}: is decoded '
            'in a way of its own, which has no path to ONNX here; RetinaNet, '
            'FCOS, RTMDet, DSOD and SSD, RefineDet have one')
    return way(head)


class OneStage(nn.Module):
    """A one-stage detector for one picture.

    Args:
        model: The detector.
        start: What normalises; None for nothing.
        decoder: What makes boxes; None to give the maps.
    """

    def __init__(self, model: SingleStageDetector, start: nn.Module | None,
                 decoder: 'Decoder | None') -> None:
        super().__init__()
        self.model, self.start, self.decoder = model, start, decoder

    def maps(self, image: Tensor,
             size: Tensor | None = None) -> Sequence[Sequence[Tensor]]:
        """The head's maps: for each kind (scores, deltas, ...) the levels."""
        if self.start is not None:
            image = self.start(image, size)
        return self.model.bbox_head(self.model.extract_feat(image))

    def forward(self, image: Tensor, size: Tensor | None = None) -> tuple:
        """Detect.

        Args:
            image: See :func:`vovnet.deploy.export.graph.image_input`.
            size: Height and width of the picture in it, (2, ), int64.

        Returns:
            tuple: Boxes (n, 4) in px of ``image``, scores (n, ) and labels
            (n, ), best first; without a decoder all maps.
        """
        maps = self.maps(image, size)
        if self.decoder is None:
            return tuple(x for levels in maps for x in levels)
        return self.decoder(maps, size)


class Decoder(nn.Module, ABC):
    """Makes boxes of maps.

    Args:
        head: Its priors, box coder and ``test_cfg`` are used.

    Raises:
        UserError: If one of these is of a kind that is not known here.
    """

    parts = 'scores', 'deltas'
    """What the head's maps are."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.test = test = head.test_cfg
        self.classes = head.num_classes
        self.coder, self.generator = self._geometry(head)
        self.priors = None
        name = type(head).__name__
        if type(self.coder) not in (DeltaXYWHBBoxCoder,
                                    DistancePointBBoxCoder) or getattr(
                                        self.coder, 'add_ctr_clamp', False):
            raise UserError(f'{name}: its box coder, '
                            f'{type(self.coder).__name__}, has no path to '
                            'ONNX here')
        suppress = test.get('nms') or {}
        if suppress.get('type', 'nms') != 'nms' or not {
                'iou_threshold'} <= set(suppress) <= {
                    'type', 'iou_threshold', 'split_thr', 'class_agnostic'}:
            raise UserError(f"{name}: test_cfg.nms is {dict(suppress)}; "
                            "ONNX has dict(type='nms', iou_threshold=...) "
                            'only')
        if test.get('min_bbox_size', 0) > 0:
            raise UserError(
                f'{name}: test_cfg.min_bbox_size is measured in the original '
                'picture, which the graph does not see; set it to 0')

    def _geometry(self, head: nn.Module) -> tuple:
        return head.bbox_coder, head.prior_generator

    def fix_priors(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Have the priors as constants.

        Args:
            sizes: Height and width of each level.
        """
        self.priors = [x.clone() for x in self.generator.grid_priors(
            [tuple(size) for size in sizes], device='cpu')]

    def forward(self, maps: Sequence[Sequence[Tensor]],
                size: Tensor) -> Candidates:
        """Make boxes.

        Args:
            maps: The head's, for one picture.
            size: Height and width of the picture, to which boxes are
                clipped, (2, ), int64.

        Returns:
            tuple: Boxes (n, 4) in px, scores (n, ) and labels (n, ).
        """
        priors = self.priors or self.generator.grid_priors(
            [x.shape[-2:] for x in maps[0]], device='cpu')
        boxes, scores, labels = self.candidates(maps, priors, size)
        if self.test.get('min_bbox_size', -1) >= 0:
            keep = (boxes[:, 2:] > boxes[:, :2]).all(-1).nonzero()[:, 0]
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        shifted = boxes
        if not self.test.nms.get('class_agnostic', False):
            # Apart by class, by as much as in mmcv. 0 stands in for no boxes.
            largest = torch.cat((boxes.flatten(), boxes.new_zeros(1))).max()
            shifted = boxes + (labels * (largest + 1))[:, None]
        best = nms(shifted, scores, self.test.nms.iou_threshold)
        best = best[:self.test.max_per_img]
        return boxes[best], scores[best], labels[best]

    @abstractmethod
    def candidates(self, maps: Sequence[Sequence[Tensor]],
                   priors: Sequence[Tensor], size: Tensor) -> Candidates:
        """What enters NMS; arguments and result as of :meth:`forward`."""

    def decode(self, priors: Tensor, deltas: Tensor,
               size: Tensor | None = None) -> Tensor:
        """Move priors by deltas, and clip.

        Args:
            priors: Boxes (n, 4) or, for distances, points (n, 2), px.
            deltas: (n, 4).
            size: Height and width to clip to; None not to clip.

        Returns:
            Tensor: Boxes, (n, 4), px.
        """
        if isinstance(self.coder, DistancePointBBoxCoder):
            low, high = priors - deltas[:, :2], priors + deltas[:, 2:]
        else:
            deltas = (deltas * deltas.new_tensor(self.coder.stds)
                      + deltas.new_tensor(self.coder.means))
            sides = priors[:, 2:] - priors[:, :2]
            centres = ((priors[:, :2] + priors[:, 2:]) * 0.5
                       + sides * deltas[:, :2])
            most = abs(log(16 / 1000))  # mmdet's wh_ratio_clip
            half = sides * deltas[:, 2:].clamp(-most, most).exp() * 0.5
            low, high = centres - half, centres + half
        boxes = torch.cat((low, high), -1)
        if size is None or not self.coder.clip_border:
            return boxes
        width_first = size.flip(0).to(boxes)
        return torch.minimum(boxes.clamp(min=0), width_first.repeat(2))


class DenseDecoder(Decoder):
    """As mmdet's dense heads: the best ``nms_pre`` of each level."""

    parts = 'scores', 'deltas', 'centerness'  # the last not of all heads

    def __init__(self, head: nn.Module) -> None:
        super().__init__(head)
        self.sigmoid = head.use_sigmoid_cls
        self.channels = head.cls_out_channels
        loss = getattr(head, 'loss_cls', None)  # mmdet's SSDHead has none
        if self.test.get('nms_pre', -1) <= 0 or loss is None or getattr(
                loss, 'custom_cls_channels', False):
            raise UserError(
                f'{type(head).__name__}: only plain scores and a positive '
                'test_cfg.nms_pre have a path to ONNX here')

    def candidates(self, maps: Sequence[Sequence[Tensor]],
                   priors: Sequence[Tensor], size: Tensor) -> Candidates:
        """See :meth:`Decoder.candidates`."""
        levels = []
        for points, scores, deltas, *factors in zip(priors, *maps):
            scores = flatten([scores], self.channels)[0]
            scores = (scores.sigmoid() if self.sigmoid else
                      scores.softmax(-1)[:, :-1])
            scores, index = best(scores.flatten()[:, None],
                                 self.test.get('score_thr', 0),
                                 self.test.nms_pre)[::2]
            place, label = index // self.classes, index % self.classes
            for factor in factors:
                scores = scores * flatten([factor], 1)[0, place, 0].sigmoid()
            levels.append((points[place], flatten([deltas], 4)[0, place],
                           scores, label))
        points, deltas, scores, labels = map(torch.cat, zip(*levels))
        return self.decode(points, deltas, size), scores, labels


class MultiBoxDecoder(Decoder):
    """As ``MultiBoxHead``: the best ``nms_pre`` of each class."""

    def candidates(self, maps: Sequence[Sequence[Tensor]],
                   priors: Sequence[Tensor], size: Tensor) -> Candidates:
        """See :meth:`Decoder.candidates`."""
        scores, deltas = maps
        return self.choose(
            flatten(scores, self.classes + 1)[0].softmax(-1)[:, :-1],
            flatten(deltas, 4)[0], torch.cat(tuple(priors)), size)

    def choose(self, scores: Tensor, deltas: Tensor, priors: Tensor,
               size: Tensor) -> Candidates:
        """Choose and decode.

        Args:
            scores: (n, classes).
            deltas: (n, 4).
            priors: Boxes, (n, 4), px.
            size: See :meth:`Decoder.decode`.

        Returns:
            tuple: As of :meth:`Decoder.forward`.
        """
        scores, labels, index = best(scores, self.test.score_thr,
                                     self.test.get('nms_pre', 0))
        return self.decode(priors[index], deltas[index], size), scores, labels


class RefineDetDecoder(MultiBoxDecoder):
    """As ``RefineDetHead``: anchors are refined first, where objects are."""

    parts = 'arm_scores', 'arm_deltas', 'odm_scores', 'odm_deltas'

    def __init__(self, head: nn.Module) -> None:
        super().__init__(head)
        self.objectness_thr = head.objectness_thr

    def _geometry(self, head: nn.Module) -> tuple:
        return head.odm_head.bbox_coder, head.arm_rpn_head.prior_generator

    def candidates(self, maps: Sequence[Sequence[Tensor]],
                   priors: Sequence[Tensor], size: Tensor) -> Candidates:
        """See :meth:`Decoder.candidates`."""
        arm_scores, arm_deltas, scores, deltas = maps
        objects = (flatten(arm_scores, 2)[0].softmax(-1)[:, :1]
                   >= self.objectness_thr)
        scores = flatten(scores, self.classes + 1)[0].softmax(-1)[:, :-1]
        anchors = self.decode(torch.cat(tuple(priors)),
                              flatten(arm_deltas, 4)[0])
        return self.choose(scores * objects, flatten(deltas, 4)[0], anchors,
                           size)


def best(scores: Tensor, score_thr: float,
         most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the best of each column.

    Args:
        scores: (n, columns).
        score_thr: Only larger scores are chosen.
        most: Number that is chosen from a column at most; all if it is not
            positive.

    Returns:
        tuple[Tensor]: Scores, columns and rows, (m, ) each.
    """
    if most <= 0:
        rows, columns = (scores > score_thr).nonzero(as_tuple=True)
        return scores[rows, columns], columns, rows
    # There may be fewer; then the number is not fixed when the graph is made.
    padded = F.pad(scores, (0, 0, 0, most), value=-torch.inf)
    top, rows = padded.topk(most, dim=0)
    ranks, columns = (top > score_thr).nonzero(as_tuple=True)
    return top[ranks, columns], columns, rows[ranks, columns]
