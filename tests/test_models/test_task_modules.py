"""Matching as Caffe does it, and the layers that detectors share."""
import numpy as np
import pytest
import torch
from caffe_reference import iou, match
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData

import vovnet  # noqa: F401
from vovnet.models.layers import L2Norm


def assign(priors, boxes, labels=None, **options):
    assigner = TASK_UTILS.build(
        dict(type='BipartiteMaxIoUAssigner', **options))
    labels = torch.arange(len(boxes)) if labels is None else labels
    return assigner.assign(
        InstanceData(priors=torch.as_tensor(priors)),
        InstanceData(bboxes=torch.as_tensor(boxes), labels=labels))


def random_boxes(rng, count, span, sizes):
    corner = rng.uniform(-10, span, (count, 2))
    return np.concatenate(
        [corner, corner + rng.uniform(*sizes, (count, 2))],
        1).astype(np.float32)


@pytest.mark.parametrize('thresholds', [(0.5, 0.5), (0.7, 0.3)])
@pytest.mark.parametrize('span', [100, 20])
def test_equals_caffes_matching(thresholds, span):
    """A span of 20 px piles the objects upon each other."""
    rng = np.random.default_rng(span)
    contested = 0
    for _ in range(40):
        priors = random_boxes(rng, 300, 100, (8, 40))
        boxes = random_boxes(rng, rng.integers(1, 25), span, (4, 40))
        labels = torch.as_tensor(rng.integers(0, 20, len(boxes)))
        overlaps = iou(priors, boxes)
        want = match(overlaps, thresholds[0])
        got = assign(priors, boxes, labels, pos_iou_thr=thresholds[0],
                     neg_iou_thr=thresholds[1])
        free = want < 0
        background = free & (overlaps.max(1) < thresholds[1])
        assert np.array_equal(
            got.gt_inds, np.where(background, 0, np.where(free, -1, want + 1)))
        assert torch.equal(
            got.labels[~free], labels[torch.as_tensor(want[~free])])
        assert (got.labels[free] == -1).all()
        best = overlaps.argmax(0)
        contested += len(set(best)) < len(best)
    # The case in which mmdet's assigner goes another way did come up.
    assert contested > 5


def test_each_object_gets_a_prior_of_its_own():
    """Both are nearest to prior 0; the second has the larger overlap."""
    priors = [[0., 0., 10., 10.], [30., 0., 40., 10.], [8., 0., 18., 10.]]
    boxes = [[1., 0., 14., 10.], [0., 0., 10., 9.]]
    got = assign(priors, boxes, torch.tensor([7, 9]))
    assert got.gt_inds.tolist() == [2, 0, 1]
    assert got.labels.tolist() == [9, -1, 7]


def test_ties_go_to_the_first_prior_and_the_first_object():
    prior, box = [0., 0., 10., 10.], [2., 2., 8., 8.]
    got = assign([prior] * 3, [box] * 2)
    assert got.gt_inds.tolist() == [1, 2, 0]


def test_an_object_that_overlaps_nothing_gets_nothing():
    got = assign([[0., 0., 10., 10.], [20., 20., 30., 30.]],
                 [[50., 50., 60., 60.], [21., 20., 30., 30.]])
    assert got.gt_inds.tolist() == [0, 2]


@pytest.mark.parametrize('objects, priors', [(0, 3), (2, 0)])
def test_nothing_to_match(objects, priors):
    got = assign(np.ones((priors, 4), np.float32),
                 np.ones((objects, 4), np.float32))
    assert got.gt_inds.tolist() == [0] * priors


def test_overlaps_are_not_changed():
    assigner = TASK_UTILS.build(dict(type='BipartiteMaxIoUAssigner'))
    overlaps = torch.rand(3, 9)
    before = overlaps.clone()
    assigner.assign_wrt_overlaps(overlaps, torch.arange(3))
    assert torch.equal(overlaps, before)


def test_l2_norm():
    layer = L2Norm(4, scale=20)
    assert layer.weight.tolist() == [20] * 4
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1., 2., 3., 4.]))
    x = torch.tensor([3., 0., 4., 0.]).view(1, 4, 1, 1)
    want = torch.tensor([0.6, 0., 2.4, 0.])
    assert torch.allclose(layer(x).flatten(), want)
    # Length does not matter, and half precision does not overflow.
    big = (x * 1e4).half()
    assert torch.allclose(layer(big).flatten(), want.half(), atol=1e-3)


def test_l2_norm_has_a_gradient_at_zero():
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    L2Norm(4)(x).sum().backward()
    assert x.grad.isfinite().all()


def test_l2_norm_gradient():
    layer = L2Norm(5).double()
    x = torch.randn(2, 5, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
