"""The steps between and after the graphs of a two-stage detector, in NumPy.

Reproduces mmdet 3.3.0 (``rpn_head.py``, ``single_level_roi_extractor.py``,
``bbox_head.py``, ``fcn_mask_head.py``, ``delta_xywh_bbox_coder.py``) with the
NMS and RoIAlign of torchvision 0.26 (``csrc/ops/cpu``), in float32 and in the
same order of operations, so that thresholds fall alike.

Boxes are (n, 4), float32: x1, y1, x2, y2 in px of the network's input. A
``size`` is height and width in px. A ``spec`` is a part of the metadata that
:func:`vovnet.deploy.export.two_stage.describe` writes.
"""
from collections.abc import Mapping, Sequence

import numpy as np

from .session import Detections, PreprocessedImage, Session

# mmdet's DeltaXYWHBBoxCoder limits the logarithm of a change of size to this.
_MAX_LOG_RATIO = np.float32(abs(np.log(16 / 1000)))


def detect(sessions: Mapping[str, Session], metadata: Mapping,
           image: PreprocessedImage) -> Detections:
    """Detect objects, given the graphs and the first file's metadata."""
    spec = metadata['two_stage']
    maps = list(sessions[''](image=image.image,
                             size=np.int64(image.size)).values())
    levels = len(spec['rpn']['strides'])
    features, scores, deltas = (
        maps[:-2 * levels], maps[-2 * levels:-levels], maps[-levels:])
    proposals = propose(scores, deltas, image.size, spec['rpn'])
    # As in mmdet, NMS works in px of the original image, but in px of the
    # network's input if masks are to be pooled from the boxes.
    mask = spec['mask']
    rescale = np.float32(1 if mask else [1 / s for s in image.scale * 2])
    boxes, scores, labels = classify(
        sessions, features, proposals, image.size, rescale, spec['stages'],
        metadata['test'])
    if not mask:
        return Detections(boxes, scores, labels)
    small_masks = np.zeros((0, 1, 1, 1), np.float32)
    if len(boxes):
        small_masks, = sessions['mask'](
            pooled=pool(features, boxes, mask['pool'])).values()
    boxes = boxes / np.float32(image.scale * 2)
    masks = paste(select_class(small_masks, np.arange(len(boxes)), labels),
                  boxes, image.original, mask['threshold'])
    return Detections(boxes, scores, labels, masks)


def propose(scores: Sequence[np.ndarray], deltas: Sequence[np.ndarray],
            size: tuple[int, int], spec: Mapping) -> np.ndarray:
    """Select region proposals, best first.

    Args:
        scores: Per level (1, H, W, A), in 0..1.
        deltas: Per level (1, H, W, 4 A).
        size: Boxes are clipped to it.
        spec: Of the region proposal network.
    """
    levels = []
    for score, delta, base, stride in zip(
            scores, deltas, spec['base_anchors'], spec['strides']):
        best = _sort_descending(score.ravel(), spec['nms_pre'])
        anchors = get_anchors(base, stride, score.shape[1:3], best)
        boxes = decode(anchors, delta.reshape(-1, 4)[best], size,
                       spec['coder'])
        levels.append((boxes, score.ravel()[best],
                       np.full(len(best), len(levels))))
    boxes, scores, level = map(np.concatenate, zip(*levels))
    if spec['min_bbox_size'] >= 0:
        large = ((boxes[:, 2:] - boxes[:, :2]) > spec['min_bbox_size']).all(1)
        boxes, scores, level = boxes[large], scores[large], level[large]
    return boxes[grouped_nms(boxes, scores, level, spec['nms'],
                             spec['max_per_img'])]


def classify(
    sessions: Mapping[str, Session], features: Sequence[np.ndarray],
    boxes: np.ndarray, size: tuple[int, int], rescale: np.ndarray,
    stages: Sequence[Mapping], test: Mapping
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classify and refine proposals with the box heads.

    Args:
        sessions: The graphs by name.
        features: Per level (1, H, W, C).
        boxes: The proposals.
        size: Boxes are clipped to it.
        rescale: Factors that boxes are multiplied by before NMS.
        stages: Specs of the box head, or of each box head of a cascade.
        test: ``score_thr``, ``nms``, ``max_per_img``.

    Returns:
        Boxes (k, 4), scores (k, ) and labels (k, ), best first.
    """
    if not len(boxes):
        return (np.zeros((0, 4), np.float32), np.zeros(0, np.float32),
                np.zeros(0, np.int64))
    logits = []
    for stage in stages:
        found, deltas = sessions[stage['graph']](
            pooled=pool(features, boxes, stage['pool'])).values()
        deltas = deltas.reshape(len(boxes), -1, 4)
        logits.append(found)
        coder = stage['coder']
        if stage is not stages[-1]:  # the next one gets refined boxes
            best = found[:, :-1].argmax(1)
            boxes = decode(
                boxes, select_class(deltas, np.arange(len(boxes)), best),
                size, coder)
    scores = softmax(sum(logits) / np.float32(len(logits)))[:, :-1]
    # Decode only what exceeds the threshold.
    row, labels = np.nonzero(scores > test['score_thr'])
    scores = scores[row, labels]
    boxes = rescale * decode(
        boxes[row], select_class(deltas, row, labels), size, coder)
    keep = grouped_nms(boxes, scores, labels, test['nms'],
                       test['max_per_img'])
    return boxes[keep], scores[keep], labels[keep]


def get_anchors(base: Sequence, stride: Sequence, grid: tuple[int, int],
                index: np.ndarray) -> np.ndarray:
    """Return anchors of a map by index, counted by row, column, base anchor.

    ``base`` has the A anchors of the cell at the origin, ``stride`` is of x
    and y, ``grid`` is height and width of the map.
    """
    base = np.float32(base)
    row, column, kind = np.unravel_index(index, (*grid, len(base)))
    corner = np.stack([column, row], 1).astype(np.float32) * np.float32(stride)
    return base[kind] + np.tile(corner, 2)


def decode(boxes: np.ndarray, deltas: np.ndarray, size: tuple[int, int],
           coder: Mapping) -> np.ndarray:
    """Move and resize boxes by deltas (n, 4) as a box coder does, and clip."""
    deltas = deltas * np.float32(coder['stds']) + np.float32(coder['means'])
    center = (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5)
    extent = boxes[:, 2:] - boxes[:, :2]
    center = center + extent * deltas[:, :2]
    half = extent * np.exp(deltas[:, 2:].clip(
        -_MAX_LOG_RATIO, _MAX_LOG_RATIO)) * np.float32(0.5)
    boxes = np.concatenate([center - half, center + half], 1)
    if coder['clip']:
        boxes = boxes.clip(0, np.float32([*size[::-1]] * 2))
    return boxes


def grouped_nms(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray,
                spec: Mapping, limit: int) -> np.ndarray:
    """Apply NMS within each class or level, or across if ``class_agnostic``.

    Returns:
        Indices of the kept boxes, best first, at most ``limit`` if positive.
    """
    if not spec['class_agnostic'] and len(boxes):
        # As mmcv's batched_nms: the offset's rounding is part of the result.
        offset = groups.astype(np.float32) * (boxes.max() + np.float32(1))
        boxes = boxes + offset[:, None]
    return nms(boxes, scores, spec['iou_threshold'], limit)


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float,
        limit: int = -1) -> np.ndarray:
    """Drop each box whose IoU with a better one exceeds the threshold.

    Returns:
        Indices of the kept boxes, best first, at most ``limit`` if positive.
        Of equal scores the first comes first.
    """
    threshold = np.float32(threshold)
    order = _sort_descending(scores)
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
            # 0 / 0 is NaN, which does not exceed the threshold.
            alive[rest] &= ~(shared / (area[i] + area[rest] - shared)
                             > threshold)
    return order[kept]


def assign_levels(boxes: np.ndarray, finest_scale: int,
                  levels: int) -> np.ndarray:
    """Return the level that each box is pooled from, (n, ), float32.

    Level 0 has boxes the root of whose area is below twice ``finest_scale``,
    each further level boxes twice as large. NaN stays NaN.
    """
    size = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    level = np.floor(np.log2(size / np.float32(finest_scale)
                             + np.float32(1e-6)))
    return level.clip(0, levels - 1)


def pool(features: Sequence[np.ndarray], boxes: np.ndarray,
         spec: Mapping) -> np.ndarray:
    """Pool each box from the map of its level.

    Args:
        features: Per level (1, H, W, C); further maps are not used.
        boxes: (n, 4).
        spec: ``strides`` (of the maps), ``finest_scale``, ``size`` (bins per
            column and row), ``sampling_ratio``, ``aligned``.

    Returns:
        (n, *size, C), float32.
    """
    levels = assign_levels(boxes, spec['finest_scale'], len(spec['strides']))
    pooled = np.zeros((len(boxes), *spec['size'], features[0].shape[3]),
                      np.float32)
    for level, stride in enumerate(spec['strides']):
        chosen = np.flatnonzero(levels == level)
        if len(chosen):
            roi_align(features[level][0], boxes[chosen], 1 / stride,
                      spec['sampling_ratio'], spec['aligned'],
                      [pooled[i] for i in chosen])
    return pooled


def roi_align(feature: np.ndarray, boxes: np.ndarray, spatial_scale: float,
              sampling_ratio: int, aligned: bool,
              outputs: Sequence[np.ndarray]) -> None:
    """Average bilinear samples over the bins of each box.

    Bilinear sampling on a grid is separable, so that a box takes two products
    of matrices.

    Args:
        feature: (H, W, C), float32.
        boxes: (n, 4), n > 0.
        spatial_scale: From px of the input to px of ``feature``.
        sampling_ratio: Samples per bin and axis; 0 for the rounded up size of
            the bin.
        aligned: Whether pixel centers lie at half integers.
        outputs: For each box the array to write to, (bins per column, bins per
            row, C).
    """
    corners = (boxes * np.float32(spatial_scale)
               - np.float32(0.5 if aligned else 0))
    rows, columns = (
        _weigh_pixels(corners[:, axis], corners[:, axis + 2], bins, length,
                      sampling_ratio, aligned)
        for axis, bins, length in zip((1, 0), outputs[0].shape,
                                      feature.shape))
    for output, (top, height, down), (left, width, right) in zip(
            outputs, zip(*rows), zip(*columns)):
        patch = feature[top:top + height, left:left + width]
        lines = right[:, :width] @ patch
        np.matmul(down[:, :height], lines.reshape(height, -1),
                  out=output.reshape(len(output), -1))


def _weigh_pixels(start: np.ndarray, end: np.ndarray, bins: int, length: int,
                  sampling_ratio: int, aligned: bool
                  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn RoIAlign's samples along one axis into weights of pixels.

    ``start`` and ``end`` of the boxes are (n, ), in px of the map.

    Returns:
        First pixel and number of pixels that a box needs, both (n, ), int64,
        and their weights, (n, bins, at least as many pixels).
    """
    extent = end - start
    if not aligned:
        extent = np.maximum(extent, 1)
    step = (extent / np.float32(bins))[:, None, None]
    count = (np.ceil(step) if sampling_ratio <= 0 else
             np.full_like(step, sampling_ratio))
    sample = np.arange(max(count.max(), 1), dtype=np.float32)
    counted = sample < count
    count = np.maximum(count, 1)
    # A sample too many repeats the last one, without weight.
    sample = np.minimum(sample, count - 1)
    at = (start[:, None, None]
          + np.arange(bins, dtype=np.float32)[:, None] * step
          + (sample + np.float32(0.5)) * step / count)
    weight = (counted & (at >= -1) & (at <= length)) / count
    at = at.clip(0, length - 1)
    first = at.min((1, 2)).astype(np.int64)
    pixels = np.ceil(at.max((1, 2))).astype(np.int64) - first + 1
    low = at.astype(np.int64)
    fraction = at - low
    # One pixel to spare: the last one's neighbor, whose weight is 0.
    shape = len(start), bins, pixels.max() + 1
    box, bin_, _ = np.ogrid[:len(start), :bins, :1]
    place = np.ravel_multi_index(
        (box, bin_, low - first[:, None, None]), shape).ravel()
    weights = (
        np.bincount(place, (weight * (1 - fraction)).ravel(), np.prod(shape))
        + np.bincount(place + 1, (weight * fraction).ravel(), np.prod(shape)))
    return first, pixels, weights.reshape(shape).astype(np.float32)


def paste(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int],
          threshold: float) -> np.ndarray:
    """Resize each box's mask into the image.

    Args:
        masks: (n, h, w), probabilities inside of the boxes.
        boxes: (n, 4), px of the image.
        size: Height and width of the image, px.
        threshold: From this probability on a pixel belongs to the mask.

    Returns:
        (n, *size), bool.
    """
    pasted = np.zeros((len(boxes), *size), bool)
    for out, mask, box in zip(pasted, masks, boxes):
        (top, rows), (left, columns) = (
            _spread(box[axis], box[axis + 2], size[1 - axis],
                    mask.shape[1 - axis]) for axis in (1, 0))
        out[top:top + len(rows), left:left + len(columns)] = (
            rows @ mask @ columns.T >= threshold)
    return pasted


def _spread(start: np.float32, end: np.float32, length: int,
            pixels: int) -> tuple[int, np.ndarray]:
    """Interpolate a mask of some ``pixels`` linearly along one axis.

    Returns:
        First pixel of the image that the box touches, and the weights of the
        mask's pixels, (touched, pixels), float32.
    """
    first = int(max(np.floor(start) - 1, 0))
    center = np.arange(first, min(np.ceil(end) + 1, length),
                       dtype=np.float32) + np.float32(0.5)
    with np.errstate(invalid='ignore', divide='ignore'):
        at = (center - start) / (end - start)
    at[np.isinf(at)] = 0.5  # a box without width shows the mask's middle
    at = at * pixels - np.float32(0.5)
    distance = np.abs(at[:, None] - np.arange(pixels, dtype=np.float32))
    return first, np.maximum(1 - distance, 0)


def select_class(values: np.ndarray, row: np.ndarray,
                 label: np.ndarray) -> np.ndarray:
    """Select (k, ...) by class, of values (n, classes or 1, ...)."""
    return values[row, label if values.shape[1] > 1 else 0]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Apply softmax to each row."""
    power = np.exp(logits - logits.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


def _sort_descending(scores: np.ndarray, limit: int = -1) -> np.ndarray:
    """Return indices, best first; of equal scores the first comes first."""
    order = np.argsort(-scores, kind='stable')
    return order[:limit] if limit > 0 else order
