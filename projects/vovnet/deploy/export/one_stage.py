"""One-stage detectors as one graph each, from the pixels to the boxes.

Reproduces the decoding of mmdet 3.3.0 (``BaseDenseHead``,
``filter_scores_and_topk``, ``DeltaXYWHBBoxCoder``,
``DistancePointBBoxCoder``) and mmcv 2.1.0 (``batched_nms``): while mmdet's
own is traced, it imports ``mmdet.core``, which no longer exists.
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
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from ...models.dense_heads import MultiBoxHead, RefineDetHead
from ...models.dense_heads.refinedet_head import flatten
from ...utils.errors import UserError
from .graph import Graph, create_image_input, read_nms, run_example

Candidates = tuple[Tensor, Tensor, Tensor]
"""Boxes (n, 4) in px, scores (n, ) and labels (n, )."""


def build(model: SingleStageDetector, shape: tuple[int, int], *,
          dynamic: bool, normalize: bool,
          maps: bool) -> tuple[list[Graph], dict]:
    """Build the graph of a one-stage detector, which is in eval mode.

    Args:
        model: The detector.
        shape: Height and width of the example input, px.
        dynamic: Leave height and width free.
        normalize: Normalize inside the graph.
        maps: Stop at the head's maps.

    Returns:
        The graph in a list, and for the metadata ``kind`` and ``test``.

    Raises:
        UserError: If head or shape have no path to ONNX.
    """
    decoder = _create_decoder(model)
    start, inputs, axes = create_image_input(
        model.data_preprocessor, shape, dynamic=dynamic, normalize=normalize)
    network = OneStage(model, start, None if maps else decoder)
    found = run_example(network.compute_maps, inputs)
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


def _create_decoder(model: SingleStageDetector) -> 'Decoder':
    head = model.bbox_head
    decoders = {
        BaseDenseHead._predict_by_feat_single: DenseDecoder,
        MultiBoxHead._predict_by_feat_single: MultiBoxDecoder,
    }
    decoder = None
    if type(head).predict_by_feat is RefineDetHead.predict_by_feat:
        decoder = RefineDetDecoder
    elif type(head).predict_by_feat is BaseDenseHead.predict_by_feat:
        decoder = decoders.get(type(head)._predict_by_feat_single)
    if (decoder is None
            or type(model).predict is not SingleStageDetector.predict
            or type(head).predict is not BaseDenseHead.predict
            or type(head)._bbox_post_process
            is not BaseDenseHead._bbox_post_process):
        raise UserError(
            f'{type(model).__name__} with {type(head).__name__}: its way of '
            'decoding boxes has no path to ONNX here; RetinaNet, FCOS, '
            'RTMDet, DSOD and SSD, RefineDet have one')
    return decoder(head)


class OneStage(nn.Module):
    """A one-stage detector for one image.

    ``start`` normalizes the image, if given. Without a decoder the head's maps
    are returned.
    """

    def __init__(self, model: SingleStageDetector, start: nn.Module | None,
                 decoder: 'Decoder | None') -> None:
        super().__init__()
        self.model, self.start, self.decoder = model, start, decoder

    def compute_maps(self, image: Tensor, size: Tensor | None = None
                     ) -> Sequence[Sequence[Tensor]]:
        """Return for each of the decoder's ``parts`` the maps by level."""
        if self.start is not None:
            image = self.start(image, size)
        return self.model.bbox_head(self.model.extract_feat(image))

    def forward(self, image: Tensor,
                size: Tensor | None = None) -> Candidates | tuple:
        """Detect, best first, in px of the input; or return all maps."""
        maps = self.compute_maps(image, size)
        if self.decoder is None:
            return tuple(x for levels in maps for x in levels)
        return self.decoder(maps, size)


class Decoder(nn.Module, ABC):
    """Decoding of a head's maps, with its priors, box coder and ``test_cfg``.

    Raises:
        UserError: If one of these has no path to ONNX.
    """

    parts = 'scores', 'deltas'
    """Names of the head's results."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.test = head.test_cfg
        self.classes = head.num_classes
        self.coder, self.generator = self._get_geometry(head)
        self.priors = None
        name = type(head).__name__
        if (type(self.coder) not in (DeltaXYWHBBoxCoder,
                                     DistancePointBBoxCoder)
                or getattr(self.coder, 'add_ctr_clamp', False)):
            raise UserError(
                f'{name}: its box coder, {type(self.coder).__name__}, has no '
                'path to ONNX here; use DeltaXYWHBBoxCoder without '
                'add_ctr_clamp, or DistancePointBBoxCoder')
        self.nms = read_nms(self.test.get('nms') or {}, head)
        if self.test.get('min_bbox_size', 0) > 0:
            raise UserError(
                f'{name}: test_cfg.min_bbox_size is measured in the original '
                'image, whose size the graph does not know; set it to 0')

    def _get_geometry(self, head: nn.Module) -> tuple:
        return head.bbox_coder, head.prior_generator

    def fix_priors(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Make the priors constants, for these map sizes by level."""
        self.priors = [x.clone() for x in self.generator.grid_priors(
            [tuple(size) for size in sizes], device='cpu')]

    def forward(self, maps: Sequence[Sequence[Tensor]],
                size: Tensor) -> Candidates:
        """Decode one image's maps, clip boxes to ``size``, and apply NMS."""
        priors = self.priors or self.generator.grid_priors(
            [x.shape[-2:] for x in maps[0]], device='cpu')
        boxes, scores, labels = self.select_candidates(maps, priors, size)
        if self.test.get('min_bbox_size', -1) >= 0:
            keep = (boxes[:, 2:] > boxes[:, :2]).all(-1).nonzero()[:, 0]
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        shifted = boxes
        if not self.nms['class_agnostic']:
            # As mmcv separates classes. 0 stands in where there are no boxes.
            largest = torch.cat((boxes.flatten(), boxes.new_zeros(1))).max()
            shifted = boxes + (labels * (largest + 1))[:, None]
        kept = nms(shifted, scores, self.nms['iou_threshold'])
        kept = kept[:self.test.max_per_img]
        return boxes[kept], scores[kept], labels[kept]

    @abstractmethod
    def select_candidates(self, maps: Sequence[Sequence[Tensor]],
                          priors: Sequence[Tensor],
                          size: Tensor) -> Candidates:
        """Return what enters NMS; arguments as of :meth:`forward`."""

    def decode(self, priors: Tensor, deltas: Tensor,
               size: Tensor | None = None) -> Tensor:
        """Move priors by deltas (n, 4), and clip to ``size``, if given.

        Priors are boxes (n, 4) or, for distances, points (n, 2), px.
        """
        if isinstance(self.coder, DistancePointBBoxCoder):
            low, high = priors - deltas[:, :2], priors + deltas[:, 2:]
        else:
            deltas = (deltas * deltas.new_tensor(self.coder.stds)
                      + deltas.new_tensor(self.coder.means))
            sides = priors[:, 2:] - priors[:, :2]
            centers = ((priors[:, :2] + priors[:, 2:]) * 0.5
                       + sides * deltas[:, :2])
            limit = abs(log(16 / 1000))  # mmdet's wh_ratio_clip
            half = sides * deltas[:, 2:].clamp(-limit, limit).exp() * 0.5
            low, high = centers - half, centers + half
        boxes = torch.cat((low, high), -1)
        if size is None or not self.coder.clip_border:
            return boxes
        width_first = size.flip(0).to(boxes)
        return torch.minimum(boxes.clamp(min=0), width_first.repeat(2))


class DenseDecoder(Decoder):
    """Decoding of mmdet's dense heads: the best ``nms_pre`` of each level."""

    parts = 'scores', 'deltas', 'centerness'  # some heads lack the last

    def __init__(self, head: nn.Module) -> None:
        super().__init__(head)
        self.sigmoid = head.use_sigmoid_cls
        self.channels = head.cls_out_channels
        loss = getattr(head, 'loss_cls', None)  # mmdet's SSDHead has none
        if self.test.get('nms_pre', -1) <= 0 or loss is None or getattr(
                loss, 'custom_cls_channels', False):
            raise UserError(
                f'{type(head).__name__}: only plain class scores and a '
                'positive test_cfg.nms_pre have a path to ONNX here; set '
                'nms_pre=1000, or another loss_cls')

    def select_candidates(self, maps: Sequence[Sequence[Tensor]],
                          priors: Sequence[Tensor],
                          size: Tensor) -> Candidates:
        """Return the best candidates of each level."""
        levels = []
        for points, scores, deltas, *factors in zip(priors, *maps):
            scores = flatten([scores], self.channels)[0]
            scores = (scores.sigmoid() if self.sigmoid else
                      scores.softmax(-1)[:, :-1])
            scores, _, index = select_best(
                scores.flatten()[:, None], self.test.get('score_thr', 0),
                self.test.nms_pre)
            place, label = index // self.classes, index % self.classes
            for factor in factors:
                scores = scores * flatten([factor], 1)[0, place, 0].sigmoid()
            levels.append((points[place], flatten([deltas], 4)[0, place],
                           scores, label))
        points, deltas, scores, labels = map(torch.cat, zip(*levels))
        return self.decode(points, deltas, size), scores, labels


class MultiBoxDecoder(Decoder):
    """Decoding of ``MultiBoxHead``: the best ``nms_pre`` of each class."""

    def select_candidates(self, maps: Sequence[Sequence[Tensor]],
                          priors: Sequence[Tensor],
                          size: Tensor) -> Candidates:
        """Return the best candidates of each class."""
        scores, deltas = maps
        return self.select_per_class(
            flatten(scores, self.classes + 1)[0].softmax(-1)[:, :-1],
            flatten(deltas, 4)[0], torch.cat(tuple(priors)), size)

    def select_per_class(self, scores: Tensor, deltas: Tensor, priors: Tensor,
                         size: Tensor) -> Candidates:
        """Select by scores (n, classes); decode with deltas (n, 4)."""
        scores, labels, index = select_best(
            scores, self.test.score_thr, self.test.get('nms_pre', 0))
        return self.decode(priors[index], deltas[index], size), scores, labels


class RefineDetDecoder(MultiBoxDecoder):
    """Decoding of ``RefineDetHead``, which refines and filters anchors."""

    parts = 'arm_scores', 'arm_deltas', 'odm_scores', 'odm_deltas'

    def __init__(self, head: nn.Module) -> None:
        super().__init__(head)
        self.objectness_thr = head.objectness_thr

    def _get_geometry(self, head: nn.Module) -> tuple:
        return head.odm_head.bbox_coder, head.arm_rpn_head.prior_generator

    def select_candidates(self, maps: Sequence[Sequence[Tensor]],
                          priors: Sequence[Tensor],
                          size: Tensor) -> Candidates:
        """Return the best candidates of each class, where objects are."""
        arm_scores, arm_deltas, scores, deltas = maps
        objects = (flatten(arm_scores, 2)[0].softmax(-1)[:, :1]
                   >= self.objectness_thr)
        scores = flatten(scores, self.classes + 1)[0].softmax(-1)[:, :-1]
        anchors = self.decode(torch.cat(tuple(priors)),
                              flatten(arm_deltas, 4)[0])
        return self.select_per_class(
            scores * objects, flatten(deltas, 4)[0], anchors, size)


def select_best(scores: Tensor, score_thr: float,
                limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Select from scores (n, columns) the best that exceed the threshold.

    At most ``limit`` of each column are selected, if it is positive.

    Returns:
        Scores, columns and rows, (m, ) each.
    """
    if limit <= 0:
        rows, columns = (scores > score_thr).nonzero(as_tuple=True)
        return scores[rows, columns], columns, rows
    # Padded, since there may be fewer rows than topk is to return.
    padded = F.pad(scores, (0, 0, 0, limit), value=-torch.inf)
    top, rows = padded.topk(limit, dim=0)
    ranks, columns = (top > score_thr).nonzero(as_tuple=True)
    return top[ranks, columns], columns, rows[ranks, columns]
