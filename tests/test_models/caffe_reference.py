"""Caffe's multi-box loss and detection in plain NumPy, for the tests.

Written from the description of the layers (SSD, section 2.2;
``bbox_util.cpp`` and ``multibox_loss_layer.cpp`` of
sfzhang15/RefineDet@52b6fe2), one image and one object at a time, in double
precision and without a look at the code under test. Boxes are (n, 4) arrays
of x1, y1, x2, y2; class 0 is the background, as in Caffe.
"""
import numpy as np

VARIANCES = np.array([0.1, 0.1, 0.2, 0.2])


def iou(a, b):
    """Overlaps (len(a), len(b)).

    In single precision, the one exception: objects inside of several priors
    of a size overlap them equally, and which one is first must not depend on
    the digits that one side keeps and the other does not.
    """
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    opposite = np.minimum(a[:, None, 2:], b[None, :, 2:])
    side = np.maximum(opposite - corner, 0)
    inter = side[..., 0] * side[..., 1]
    area_a, area_b = (
        (x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    return inter / (area_a[:, None] + area_b[None] - inter)


def match(overlaps, positive=0.5):
    """The object of each prior, -1 for none; overlaps are (priors, objects).
    """
    found = np.full(len(overlaps), -1)
    objects = set(range(overlaps.shape[1]))
    while objects:
        best = (1e-6, None, None)
        for j in sorted(objects):
            free = np.where(found < 0, overlaps[:, j], -1)
            i = free.argmax()
            if free[i] > best[0] or (free[i] == best[0] and best[1] is not None
                                     and i < best[1]):
                best = free[i], i, j
        if best[1] is None:
            break
        found[best[1]] = best[2]
        objects.remove(best[2])
    for i in np.flatnonzero(found < 0):
        if overlaps.shape[1] and overlaps[i].max() >= positive:
            found[i] = overlaps[i].argmax()
    return found


def centre(boxes):
    """Centres and sizes, (n, 4)."""
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2,
                           boxes[:, 2:] - boxes[:, :2]], 1)


def encode(priors, boxes):
    """What the network has to say for each prior to give its box."""
    p, b = centre(priors), centre(boxes)
    shift = (b[:, :2] - p[:, :2]) / p[:, 2:]
    return np.concatenate(
        [shift, np.log(b[:, 2:] / p[:, 2:])], 1) / VARIANCES


def decode(priors, deltas):
    """The boxes that the network's words mean, not clipped."""
    p, d = centre(priors), deltas * VARIANCES
    middle = p[:, :2] + d[:, :2] * p[:, 2:]
    half = p[:, 2:] * np.exp(d[:, 2:]) / 2
    return np.concatenate([middle - half, middle + half], 1)


def log_softmax(x):
    """Along the last axis."""
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def multibox_loss(scores, deltas, priors, objects, positive=0.5,
                  negative=0.5, may_be_negative=None):
    """Classification and localisation loss of a batch.

    Args:
        scores: (images, priors, 1 + classes).
        deltas: (images, priors, 4).
        priors: (priors, 4), or one such array for each image.
        objects: For each image boxes (k, 4) and classes (k, ) from 1 on.
        positive: Least overlap of a match that is not the object's best.
        negative: Negatives overlap every object less.
        may_be_negative: (images, priors), False where the loss must not take
            a negative from (RefineDet's filter).
    """
    if np.ndim(priors) == 2:
        priors = [priors] * len(scores)
    classify = localise = matched = 0
    for i, (boxes, labels) in enumerate(objects):
        # An image without objects contributes nothing.
        if not len(boxes):
            continue
        overlaps = iou(priors[i], boxes)
        found = match(overlaps, positive)
        at = np.flatnonzero(found >= 0)
        log_p = log_softmax(scores[i])
        off = np.abs(deltas[i][at] - encode(priors[i][at], boxes[found[at]]))
        localise += np.where(off < 1, off**2 / 2, off - 0.5).sum()
        classify -= log_p[at, labels[found[at]]].sum()
        free = (found < 0) & (overlaps.max(1) < negative)
        if may_be_negative is not None:
            free &= may_be_negative[i]
        hardest = np.sort(-log_p[free, 0])[::-1]
        classify += hardest[:3 * len(at)].sum()
        matched += len(at)
    return classify / max(1, matched), localise / max(1, matched)


def detect(scores, deltas, priors, size, score_thr, iou_thr, most):
    """Detections of an image, best first: boxes, scores, classes from 1 on.

    ``size`` is (width, height), to which boxes are clipped before NMS.
    """
    p = np.exp(log_softmax(scores))
    boxes = decode(priors, deltas)
    boxes = np.clip(boxes, 0, np.tile(size, 2))
    out = []
    for c in range(1, scores.shape[1]):
        left = [i for i in np.argsort(-p[:, c]) if p[i, c] > score_thr
                and (boxes[i, 2:] > boxes[i, :2]).all()]
        while left:
            i, *left = left
            out.append((p[i, c], boxes[i], c))
            if left:
                near = iou(boxes[[i]], boxes[left])[0] > iou_thr
                left = [j for j, n in zip(left, near) if not n]
    out.sort(key=lambda d: -d[0])
    out = out[:most]
    return (np.array([d[1] for d in out]).reshape(-1, 4),
            np.array([d[0] for d in out]), np.array([d[2] for d in out]))
