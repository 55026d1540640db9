"""NMS and its relatives against loops, as Bodla et al. (2017) write them."""
import math

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, bbox_overlaps, nms, nms_match, soft_nms


def iou(a, b, offset=0):
    """IoU of two boxes in float32, the type mmcv computes in."""
    a, b = np.float32(a), np.float32(b)
    offset = np.float32(offset)
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + offset, np.float32(0))
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + offset, np.float32(0))
    area_a, area_b = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset)
                      for c in (a, b))
    return width * height / (area_a + area_b - width * height)


def loop_nms(boxes, scores, threshold, offset=0):
    keep = []
    for i in np.argsort(-np.float32(scores)):
        if all(
                iou(boxes[i], boxes[j], offset) <= np.float32(threshold)
                for j in keep):
            keep.append(int(i))
    return keep


def loop_soft_nms(boxes, scores, method, threshold, sigma, min_score, offset):
    scores = dict(enumerate(scores))
    picked = []
    while scores:
        best = max(scores, key=scores.get)
        picked.append((best, scores.pop(best)))
        for i in list(scores):
            overlap = float(iou(boxes[best], boxes[i], offset))
            if method == 'gaussian':
                scores[i] *= math.exp(-overlap**2 / sigma)
            elif overlap >= threshold:
                scores[i] *= 1 - overlap if method == 'linear' else 0
            if scores[i] < min_score:
                del scores[i]
    return picked


def random_boxes(count, side=40):
    """Boxes with whole coordinates and scores without ties."""
    rng = np.random.default_rng(count)
    corner = rng.integers(0, side, (count, 2))
    size = rng.integers(1, side // 2, (count, 2))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    return boxes, (rng.permutation(count) + 1).astype(np.float32) / count


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.3, 0.5, 0.7])
def test_nms_is_the_greedy_loop(device, threshold, offset):
    boxes, scores = random_boxes(120)
    expected = loop_nms(boxes, scores, threshold, offset)
    assert 1 < len(expected) < 120
    dets, inds = nms(
        torch.tensor(boxes, device=device),
        torch.tensor(scores, device=device), threshold, offset)
    assert inds.tolist() == expected and inds.device.type == device
    assert dets.tolist() == np.c_[boxes, scores][expected].tolist()


def test_nms_keeps_a_box_at_exactly_the_threshold(device):
    boxes = torch.tensor([[0., 0, 10, 1], [0, 0, 3, 1]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)  # IoU 3 / 10
    assert len(nms(boxes, scores, 0.3)[1]) == 2
    assert len(nms(boxes, scores, 0.29)[1]) == 1


def test_nms_offset_counts_the_last_pixel(device):
    # Side by side: no overlap, or one shared column of 10 in 100 + 100 - 10.
    boxes = torch.tensor([[0., 0, 9, 9], [9, 0, 18, 9]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert len(nms(boxes, scores, 0.05, offset=0)[1]) == 2
    assert len(nms(boxes, scores, 0.05, offset=1)[1]) == 1
    assert len(nms(boxes, scores, 10 / 190 + 1e-4, offset=1)[1]) == 2


def test_nms_takes_equal_scores_in_the_order_of_torch_sort(device):
    # Boxes apart, all kept; beyond 16 torch's sort is not stable.
    corner = torch.arange(40., device=device)[:, None].repeat(1, 4) * 9
    boxes = corner + torch.tensor([0., 0, 5, 5], device=device)
    scores = torch.arange(40, device=device) % 3 / 4
    expected = scores.sort(descending=True)[1]
    assert nms(boxes, scores, 0.5)[1].tolist() == expected.tolist()


def test_nms_of_nothing(device):
    boxes = torch.empty(0, 4, device=device)
    dets, inds = nms(boxes, boxes[:, 0], 0.5)
    assert dets.shape == (0, 5) and inds.shape == (0, )
    assert inds.dtype == torch.long


def test_nms_of_arrays_with_limits():
    boxes, scores = random_boxes(60)
    expected = [i for i in loop_nms(boxes, scores, 0.5) if scores[i] > 0.4]
    dets, inds = nms(boxes, scores, 0.5, score_threshold=0.4, max_num=5)
    assert isinstance(dets, np.ndarray) and inds.tolist() == expected[:5]


def test_nms_of_short_types(device, short_type, only_torchvision):
    boxes, scores = random_boxes(60)
    # Whole numbers below 256 are exact in both types, ranks are distinct.
    scores = np.argsort(np.argsort(scores)).astype(np.float32)
    dets, inds = nms(
        torch.tensor(boxes, dtype=short_type, device=device),
        torch.tensor(scores, dtype=short_type, device=device), 0.5)
    assert dets.dtype == short_type
    assert inds.tolist() == loop_nms(boxes, scores, 0.5)


@pytest.mark.parametrize('split_thr', [10000, 1])
def test_batched_nms_keeps_classes_apart(device, split_thr):
    boxes, scores = random_boxes(90)
    labels = np.arange(90) % 3
    expected = [
        np.flatnonzero(labels == c)[i] for c in range(3)
        for i in loop_nms(boxes[labels == c], scores[labels == c], 0.4)
    ]
    expected = sorted(expected, key=lambda i: -scores[i])
    tensors = [
        torch.tensor(a, device=device) for a in (boxes, scores, labels)
    ]
    cfg = dict(type='nms', iou_threshold=0.4, split_thr=split_thr)
    dets, keep = batched_nms(*tensors, cfg)
    assert keep.tolist() == expected
    assert dets.tolist() == np.c_[boxes, scores][expected].tolist()
    _, keep = batched_nms(*tensors, cfg, class_agnostic=True)
    if split_thr > 1:  # mmcv splits by class whatever it was told
        assert keep.tolist() == loop_nms(boxes, scores, 0.4)


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_is_the_loop(device, method, offset):
    boxes, scores = random_boxes(50)
    expected = loop_soft_nms(boxes, scores.tolist(), method, 0.3, 0.5, 0.05,
                             offset)
    assert 1 < len(expected) < 50
    dets, inds = soft_nms(
        torch.tensor(boxes, device=device),
        torch.tensor(scores, device=device), 0.3, 0.5, 0.05, method, offset)
    assert inds.tolist() == [i for i, _ in expected]
    assert dets.device.type == device
    np.testing.assert_array_equal(dets[:, :4].cpu(), boxes[inds.cpu()])
    np.testing.assert_allclose(
        dets[:, 4].cpu(), [score for _, score in expected], rtol=1e-5)


def test_soft_nms_breaks_ties_as_mmcv_swaps():
    # Boxes apart. The best changes places with the first of the list, and
    # the first of the equal ones in the list is next: 0123 -> 3120 -> 1, 2.
    boxes = torch.tensor([[i * 9., 0, i * 9 + 5, 5] for i in range(4)])
    _, inds = soft_nms(boxes, torch.tensor([.5, .5, .5, .9]))
    assert inds.tolist() == [3, 1, 2, 0]
    # Boxes 1 and 2 fall to zero beneath box 0. The last living one takes the
    # place of each: 12345 -> 5234 -> 543.
    boxes = torch.tensor([[i * 9., 0, i * 9 + 5, 5] for i in range(6)])
    boxes[1:3] = boxes[0]
    _, inds = soft_nms(boxes, torch.tensor([.9, .8, .8, .5, .5, .5]))
    assert inds.tolist() == [0, 5, 4, 3]


def test_soft_nms_of_nothing():
    dets, inds = soft_nms(torch.empty(0, 4), torch.empty(0))
    assert dets.shape == (0, 5) and inds.shape == (0, )


def test_nms_match_groups_by_the_suppressor():
    boxes, scores = random_boxes(60)
    groups = nms_match(torch.tensor(np.c_[boxes, scores]), 0.4)
    left = list(np.argsort(-scores))
    for group in groups:
        best = left[0]
        expected = [best] + [
            i for i in left[1:]
            if iou(boxes[best], boxes[i]) >= np.float32(0.4)
        ]
        assert group.tolist() == expected
        left = [i for i in left if i not in expected]
    assert not left and any(len(group) > 1 for group in groups)


@pytest.mark.parametrize('offset', [0, 1])
def test_bbox_overlaps(device, offset):
    boxes, _ = random_boxes(12)
    first = torch.tensor(boxes[:5], device=device)
    second = torch.tensor(boxes[5:], device=device)
    expected = [[iou(a, b, offset) for b in boxes[5:]] for a in boxes[:5]]
    ious = bbox_overlaps(first, second, offset=offset)
    np.testing.assert_allclose(ious.cpu(), expected, rtol=1e-6)
    pairs = bbox_overlaps(first, second[:5], aligned=True, offset=offset)
    np.testing.assert_allclose(
        pairs.cpu(), np.diagonal(expected), rtol=1e-6)


def test_bbox_overlaps_over_the_foreground(device):
    first = torch.tensor([[0., 0, 4, 4]], device=device)
    second = torch.tensor([[2., 0, 10, 10], [4, 4, 6, 6]], device=device)
    assert bbox_overlaps(first, second, mode='iof').tolist() == [[0.5, 0]]
    assert bbox_overlaps(first, second[:0]).shape == (1, 0)
