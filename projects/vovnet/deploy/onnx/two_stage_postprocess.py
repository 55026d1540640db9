"""What happens between and after the graphs of a two-stage detector.

Needs numpy alone. Proposals are decoded and thinned out, pooled from the
feature maps, and the heads' answers become boxes and masks.

Source: own work. It computes what mmdet 3.3.0 does (``rpn_head.py``,
``single_level_roi_extractor.py``, ``bbox_head.py``, ``fcn_mask_head.py``,
``delta_xywh_bbox_coder.py``) with the NMS and RoIAlign of torchvision 0.26
(``csrc/ops/cpu``), read, not copied, in float32 and in their order, so that
thresholds fall alike. Two things differ in form: bilinear sampling on a grid
is separable, so RoIAlign and the pasting of a mask are two products of
matrices each; and boxes that a threshold is about to drop are not decoded.
"""
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .detector import Picture, Session

# What mmdet's coder allows the logarithm of a change of size to be.
_MAX_LOG_RATIO = np.float32(abs(np.log(16 / 1000)))


def run(
    sessions: Mapping[str, 'Session'], metadata: Mapping, picture: 'Picture'
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Detect in a prepared picture.

    Args:
        sessions: The graphs that :func:`vovnet.deploy.export.two_stage.build` has
            made, by name.
        metadata: The document in the first file.
        picture: From :meth:`vovnet.deploy.onnx.detector.Detector.prepare`.

    Returns:
        tuple: Boxes (n, 4), float32, as x1, y1, x2, y2 in px of the original
        picture; scores (n, ), float32, best first; labels (n, ), int64; and
        masks (n, height, width), bool, or None for a detector without.
    """
    spec = metadata['two_stage']
    first = sessions['']
    given = dict(image=picture.image, size=np.int64(picture.size))
    maps = [*first(**{name: given[name] for name in first.inputs}).values()]
    levels = len(spec['rpn']['strides'])
    features, scores, deltas = (
        maps[:-2 * levels], maps[-2 * levels:-levels], maps[-levels:])
    rois = proposals(scores, deltas, picture.size, spec['rpn'])
    # mmdet has the NMS work in px of the picture, but on the network's
    # input where masks are still to be pooled from the boxes.
    mask = spec['mask']
    boxes, scores, labels = classify(
        sessions, features, rois, picture.size,
        None if mask else np.float32([1 / s for s in picture.scale * 2]),
        spec['stages'], metadata['test'])
    if not mask:
        return boxes, scores, labels, None
    shapes = np.zeros((0, 1, 1, 1), np.float32)
    if len(boxes):
        shapes, = sessions['mask'](
            pooled=pool(features, boxes, mask['pool'])).values()
    boxes = boxes / np.float32(picture.scale * 2)
    channel = labels if shapes.shape[1] > 1 else labels * 0
    return boxes, scores, labels, paste(
        shapes[np.arange(len(boxes)), channel], boxes, picture.original,
        mask['threshold'])


def proposals(scores: Sequence[np.ndarray], deltas: Sequence[np.ndarray],
              size: tuple[int, int], spec: Mapping) -> np.ndarray:
    """What the region proposal network proposes.

    Args:
        scores: Per level (1, H, W, A), in 0..1.
        deltas: Per level (1, H, W, 4 A).
        size: Height and width that boxes are clipped to, px.
        spec: ``base_anchors`` (per level (A, 4)), ``strides`` (per level of
            x and y), ``coder``, ``nms_pre``, ``nms``, ``max_per_img``,
            ``min_bbox_size``.

    Returns:
        np.ndarray: (n, 4), px of the network's input, best first.
    """
    levels = []
    for score, delta, base, stride in zip(
            scores, deltas, spec['base_anchors'], spec['strides']):
        grid = score.shape[1:3]
        best = _descending(score.ravel(), spec['nms_pre'])
        anchors = grid_anchors(base, stride, grid, best)
        boxes = decode(anchors, delta.reshape(-1, 4)[best], size,
                       spec['coder'])
        levels.append((boxes, score.ravel()[best]))
    groups = np.repeat(np.arange(len(levels)), [len(b) for b, _ in levels])
    boxes, scores = map(np.concatenate, zip(*levels))
    if spec['min_bbox_size'] >= 0:
        large = ((boxes[:, 2:] - boxes[:, :2]) > spec['min_bbox_size']).all(1)
        boxes, scores, groups = boxes[large], scores[large], groups[large]
    return boxes[grouped_nms(boxes, scores, groups, spec['nms'],
                             spec['max_per_img'])]


def classify(
    sessions: Mapping[str, 'Session'], features: Sequence[np.ndarray],
    rois: np.ndarray, size: tuple[int, int], rescale: np.ndarray | None,
    stages: Sequence[Mapping], test: Mapping
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the box heads make of the proposals.

    Args:
        sessions: The graphs by name.
        features: Per level (1, H, W, C).
        rois: (n, 4), px of the network's input.
        size: Height and width that boxes are clipped to, px.
        rescale: Factors (4, ) that boxes get before the NMS, if any.
        stages: One, or a cascade's; each with ``graph``, ``pool`` and
            ``coder``.
        test: ``score_thr``, ``nms``, ``max_per_img``.

    Returns:
        tuple: Boxes (k, 4), scores (k, ) and labels (k, ), best first.
    """
    if not len(rois):
        return (np.zeros((0, 4), np.float32), np.zeros(0, np.float32),
                np.zeros(0, np.int64))
    logits = []
    for last, stage in enumerate(stages, 1 - len(stages)):
        found, deltas = sessions[stage['graph']](
            pooled=pool(features, rois, stage['pool'])).values()
        logits.append(found)
        coder = stage['coder']
        if last < 0:
            label = logits[-1][:, :-1].argmax(1)
            deltas = _of_class(deltas, np.arange(len(rois)), label)
            rois = decode(rois, deltas, size, coder)
    scores = softmax(sum(logits) / np.float32(len(logits)))[:, :-1]
    roi, labels = np.nonzero(scores > test['score_thr'])
    scores = scores[roi, labels]
    boxes = decode(rois[roi], _of_class(deltas, roi, labels), size, coder)
    if rescale is not None:
        boxes = boxes * rescale
    keep = grouped_nms(boxes, scores, labels, test['nms'],
                       test['max_per_img'])
    return boxes[keep], scores[keep], labels[keep]


def grid_anchors(base: Sequence, stride: Sequence, grid: tuple[int, int],
                 index: np.ndarray) -> np.ndarray:
    """Anchors of a map by number, counted by row, column, base anchor.

    Args:
        base: Anchors of the cell at the origin, (A, 4), px.
        stride: Of x and of y, px.
        grid: Height and width of the map.
        index: (n, ), 0 to H * W * A - 1.

    Returns:
        np.ndarray: (n, 4), float32, px.
    """
    base = np.float32(base)
    row, column, kind = np.unravel_index(index, (*grid, len(base)))
    corner = np.stack([column, row], 1).astype(np.float32) * np.float32(stride)
    return base[kind] + np.tile(corner, 2)


def decode(boxes: np.ndarray, deltas: np.ndarray, size: tuple[int, int],
           coder: Mapping) -> np.ndarray:
    """Move and resize boxes (mmdet's ``DeltaXYWHBBoxCoder``).

    Args:
        boxes: (n, 4), px.
        deltas: (n, 4), of centre, width and height.
        size: Height and width to clip to, px.
        coder: ``means`` and ``stds`` (4 each), ``clip``.

    Returns:
        np.ndarray: (n, 4), float32, px.
    """
    deltas = deltas * np.float32(coder['stds']) + np.float32(coder['means'])
    centre = (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5)
    extent = boxes[:, 2:] - boxes[:, :2]
    centre = centre + extent * deltas[:, :2]
    half = extent * np.exp(deltas[:, 2:].clip(
        -_MAX_LOG_RATIO, _MAX_LOG_RATIO)) * np.float32(0.5)
    boxes = np.concatenate([centre - half, centre + half], 1)
    if coder['clip']:
        boxes = boxes.clip(0, np.float32([*size[::-1]] * 2))
    return boxes


def grouped_nms(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray,
                spec: Mapping, limit: int) -> np.ndarray:
    """NMS in which boxes of different groups do not meet.

    Args:
        boxes: (n, 4), px.
        scores: (n, ).
        groups: (n, ), class or level.
        spec: ``iou_threshold``, and ``class_agnostic``: boxes meet anyway.
        limit: Stop at so many; -1 for never.

    Returns:
        np.ndarray: Numbers of the kept boxes, best first.
    """
    if not spec['class_agnostic'] and len(boxes):
        # As mmcv's batched_nms: the offset's rounding is part of the result.
        offset = groups.astype(np.float32) * (boxes.max() + np.float32(1))
        boxes = boxes + offset[:, None]
    return nms(boxes, scores, spec['iou_threshold'], limit)


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float,
        limit: int = -1) -> np.ndarray:
    """Drop each box whose IoU with a better one exceeds the threshold.

    Args:
        boxes: (n, 4), px.
        scores: (n, ); of equal ones the first comes first.
        threshold: Boxes at exactly this IoU are kept.
        limit: Stop at so many; -1 for never.

    Returns:
        np.ndarray: int64 numbers of the kept boxes, best first.
    """
    threshold = np.float32(threshold)
    order = _descending(scores)
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].T)
    area = (x2 - x1) * (y2 - y1)
    alive = np.ones(len(order), bool)
    kept = []
    with np.errstate(invalid='ignore', divide='ignore'):
        for i in range(len(order)):
            if not alive[i]:
                continue
            kept.append(i)
            if len(kept) == limit:
                break
            rest = slice(i + 1, None)
            width = np.minimum(x2[rest], x2[i]) - np.maximum(x1[rest], x1[i])
            height = np.minimum(y2[rest], y2[i]) - np.maximum(y1[rest], y1[i])
            shared = np.maximum(width, 0) * np.maximum(height, 0)
            # 0 / 0 is not a number, and so not more than the threshold.
            alive[rest] &= ~(shared / (area[i] + area[rest] - shared)
                             > threshold)
    return order[kept]


def roi_levels(boxes: np.ndarray, finest_scale: int,
               levels: int) -> np.ndarray:
    """Which map each box is pooled from.

    Args:
        boxes: (n, 4), px.
        finest_scale: Boxes of less than twice this size, the root of their
            area in px, belong to level 0.
        levels: Number of maps; each further one takes boxes twice as large.

    Returns:
        np.ndarray: (n, ), int64.
    """
    size = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    level = np.floor(np.log2(size / np.float32(finest_scale)
                             + np.float32(1e-6)))
    return level.clip(0, levels - 1).astype(np.int64)


def pool(features: Sequence[np.ndarray], boxes: np.ndarray,
         spec: Mapping) -> np.ndarray:
    """Pool each box from the map of its level.

    Args:
        features: Per level (1, H, W, C); further maps are left alone.
        boxes: (n, 4), px of the network's input.
        spec: ``strides`` (of the maps), ``finest_scale``, ``size`` (bins per
            column and row), ``sampling_ratio``, ``aligned``.

    Returns:
        np.ndarray: (n, *size, C), float32.
    """
    levels = roi_levels(boxes, spec['finest_scale'], len(spec['strides']))
    pooled = np.zeros((len(boxes), *spec['size'], features[0].shape[3]),
                      np.float32)
    for level, stride in enumerate(spec['strides']):
        chosen = np.flatnonzero(levels == level)
        roi_align(features[level][0], boxes[chosen], spec['size'], 1 / stride,
                  spec['sampling_ratio'], spec['aligned'], pooled, chosen)
    return pooled


def roi_align(feature: np.ndarray, boxes: np.ndarray, size: Sequence[int],
              spatial_scale: float, sampling_ratio: int = 0,
              aligned: bool = True, out: np.ndarray | None = None,
              places: np.ndarray | None = None) -> np.ndarray:
    """Bilinear averages over the bins of each box.

    Args:
        feature: (H, W, C), float32.
        boxes: (n, 4), px of the picture.
        size: Bins per column and per row.
        spatial_scale: From px of the picture to px of ``feature``.
        sampling_ratio: Points per bin and axis; 0 takes the rounded up size
            of the bin.
        aligned: Whether pixels' centres lie at half integers.
        out: Array to write to; a new one by default.
        places: (n, ), rows of ``out``; by default 0 to n - 1.

    Returns:
        np.ndarray: ``out``, (n, *size, C), float32.
    """
    if out is None:
        out = np.zeros((len(boxes), *size, feature.shape[2]), np.float32)
    if not len(boxes):
        return out
    corners = (boxes * np.float32(spatial_scale)
               - np.float32(0.5 if aligned else 0))
    rows, columns = (
        _axis(corners[:, axis], corners[:, axis + 2], bins, length,
              sampling_ratio, aligned)
        for axis, bins, length in zip((1, 0), size, feature.shape))
    places = range(len(boxes)) if places is None else places
    for place, (top, height, down), (left, width, right) in zip(
            places, zip(*rows), zip(*columns)):
        patch = feature[top:top + height, left:left + width]
        lines = right[:, :width] @ patch
        np.matmul(down[:, :height], lines.reshape(height, -1),
                  out=out[place].reshape(size[0], -1))
    return out


def _axis(start: np.ndarray, end: np.ndarray, bins: int, length: int,
          sampling_ratio: int, aligned: bool
          ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bilinear sampling along one axis, as weights of pixels.

    Args:
        start, end: (n, ), float32, px of the map.
        bins: Bins between them.
        length: Of the map, px.
        sampling_ratio, aligned: See :func:`roi_align`.

    Returns:
        tuple: First pixel and number of pixels that a box needs, both
        (n, ), int64, and their weights, (n, bins, at least as many pixels).
    """
    extent = end - start
    if not aligned:
        extent = np.maximum(extent, 1)
    step = extent / np.float32(bins)
    points = (np.ceil(step) if sampling_ratio <= 0 else
              np.full_like(step, sampling_ratio))[:, None, None]
    point = np.arange(max(points.max(), 1), dtype=np.float32)
    taken = point < points
    points = np.maximum(points, 1)
    # A point too many repeats the last one, without weight.
    point = np.minimum(point, points - 1)
    step = step[:, None, None]
    bin_ = np.arange(bins, dtype=np.float32)[:, None]
    at = (start[:, None, None] + bin_ * step
          + (point + np.float32(0.5)) * step / points)
    weight = (taken & (at >= -1) & (at <= length)) / points
    at = at.clip(0, length - 1)
    first = at.min((1, 2)).astype(np.int64)
    pixels = np.ceil(at.max((1, 2))).astype(np.int64) - first + 1
    low = at.astype(np.int64)
    fraction = at - low
    # One pixel to spare: the last one's neighbour, which has no weight.
    shape = len(start), bins, pixels.max() + 1
    place = low - first[:, None, None] + np.arange(
        0, np.prod(shape), shape[2]).reshape(*shape[:2], 1)
    weights = sum(
        np.bincount(where.ravel(), part.ravel(), np.prod(shape))
        for where, part in ((place, weight * (1 - fraction)),
                            (place + 1, weight * fraction)))
    return first, pixels, weights.reshape(shape).astype(np.float32)


def paste(shapes: np.ndarray, boxes: np.ndarray, size: tuple[int, int],
          threshold: float) -> np.ndarray:
    """Put each box's mask into the picture.

    Args:
        shapes: (n, h, w), probabilities inside of the boxes.
        boxes: (n, 4), px of the picture.
        size: Height and width of the picture, px.
        threshold: From this probability on a pixel belongs to the mask.

    Returns:
        np.ndarray: (n, *size), bool.
    """
    masks = np.zeros((len(boxes), *size), bool)
    for mask, shape, box in zip(masks, shapes, boxes):
        (top, rows), (left, columns) = (
            _spread(box[axis], box[axis + 2], size[1 - axis],
                    shape.shape[1 - axis]) for axis in (1, 0))
        mask[top:top + len(rows), left:left + len(columns)] = (
            rows @ shape @ columns.T >= threshold)
    return masks


def _spread(start: np.float32, end: np.float32, length: int,
            pixels: int) -> tuple[int, np.ndarray]:
    """Bilinear sampling of a mask along one axis, nothing being outside.

    Args:
        start, end: Of the box, px of the picture.
        length: Of the picture, px.
        pixels: Of the mask.

    Returns:
        tuple: First pixel of the picture that is touched, and the weights of
        the mask's pixels, (touched, pixels), float32.
    """
    first = int(max(np.floor(start) - 1, 0))
    centre = np.arange(first, min(np.ceil(end) + 1, length),
                       dtype=np.float32) + np.float32(0.5)
    with np.errstate(invalid='ignore', divide='ignore'):
        at = (centre - start) / (end - start)
    at[np.isinf(at)] = 0.5  # a box without width shows the mask's middle
    at = at * pixels - np.float32(0.5)
    distance = np.abs(at[:, None] - np.arange(pixels, dtype=np.float32))
    return first, np.maximum(1 - distance, 0)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row."""
    power = np.exp(logits - logits.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


def _descending(scores: np.ndarray, limit: int = -1) -> np.ndarray:
    """Numbers of the best, in order; of equal ones the first comes first."""
    order = np.argsort(-scores, kind='stable')
    return order[:limit] if limit > 0 else order


def _of_class(deltas: np.ndarray, row: np.ndarray,
              label: np.ndarray) -> np.ndarray:
    """Deltas (k, 4) of a class, of those for all (n, 4 or 4 C)."""
    deltas = deltas.reshape(len(deltas), -1, 4)
    return deltas[row, label if deltas.shape[1] > 1 else 0]
