"""The NumPy steps of two-stage detectors equal torchvision's and mmdet's."""
import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.models import FCNMaskHead, SingleRoIExtractor
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn
from torchvision.ops import nms, roi_align

from vovnet.deploy.export import graph, two_stage
from vovnet.deploy.onnx import two_stage_postprocess as postprocess


def some_boxes(rng, count, side=200):
    """Boxes inside and outside of a picture, empty ones and tiny ones."""
    corner = rng.uniform(-0.3 * side, 1.2 * side, (count, 2))
    extent = rng.exponential(0.3 * side, (count, 2))
    extent[:10] = 0
    extent[10:20] /= 1000
    extent[20:25, 0] = 0
    return np.concatenate([corner, corner + extent], 1).astype(np.float32)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2, 3])
@pytest.mark.parametrize('shape, size', [
    ((20, 30, 6), (7, 7)), ((20, 30, 6), (3, 14)), ((1, 9, 2), (7, 7))])
def test_roi_align_is_torchvisions(shape, size, sampling_ratio, aligned):
    rng = np.random.default_rng(0)
    feature = rng.standard_normal(shape, np.float32)
    boxes = some_boxes(rng, 300)
    boxes[-20:, :2] += 300  # negative sizes
    expected = roi_align(
        torch.from_numpy(feature).permute(2, 0, 1)[None],
        [torch.from_numpy(boxes)], size, 1 / 8, sampling_ratio, aligned)
    found = np.empty((300, *size, shape[2]), np.float32)
    postprocess.roi_align(feature, boxes, 1 / 8, sampling_ratio, aligned,
                          found)
    assert expected.abs().max() > 1
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected,
                               atol=5e-6)


def test_boxes_are_pooled_from_their_level():
    rng = np.random.default_rng(0)
    extractor = SingleRoIExtractor(
        dict(type='RoIAlign', output_size=(3, 2), sampling_ratio=0), 4,
        [4, 8, 16], finest_scale=20)
    maps = [rng.standard_normal((1, n, n, 4), np.float32)
            for n in (50, 25, 13)]
    boxes = some_boxes(rng, 300)
    edge = boxes[150:]  # of two levels
    edge[:, :2] = np.floor(edge[:, :2])
    edge[:, 2:] = edge[:, :2] + 40
    expected = extractor(
        [torch.from_numpy(x).permute(0, 3, 1, 2) for x in maps],
        nn.functional.pad(torch.from_numpy(boxes), (1, 0)))
    spec = two_stage._read_pool(extractor)
    found = postprocess.pool(maps, boxes, spec)
    levels = postprocess.assign_levels(boxes, 20, 3)
    assert (levels[150:] == 1).all() and set(levels[:150]) == {0, 1, 2}
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected,
                               atol=5e-6)


@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.7])
@pytest.mark.parametrize('count', [0, 1, 100, 1000])
def test_nms_is_torchvisions(count, threshold):
    rng = np.random.default_rng(count)
    # Whole numbers: many equal scores, and IoUs at the threshold.
    corner = rng.integers(0, 20, (count, 2))
    boxes = np.float32(np.concatenate(
        [corner, corner + rng.integers(0, 15, (count, 2))], 1))
    scores = rng.integers(0, 20, count).astype(np.float32)
    # torchvision compares with a double, mmcv with a float.
    expected = nms(torch.from_numpy(boxes), torch.from_numpy(scores),
                   float(np.float32(threshold)))
    found = postprocess.nms(boxes, scores, threshold)
    assert found.tolist() == expected.tolist()
    assert len(found) < max(2, count)
    assert postprocess.nms(boxes, scores, threshold, 3).tolist() == (
        expected[:3].tolist())


@pytest.mark.parametrize('options', [
    {}, dict(class_agnostic=True), dict(split_thr=100)])
def test_classes_do_not_suppress_each_other(options):
    rng = np.random.default_rng(0)
    boxes = some_boxes(rng, 600).clip(0, 150)
    scores = rng.random(600, np.float32)
    groups = rng.integers(0, 4, 600)
    cfg = ConfigDict(type='nms', iou_threshold=0.5, **options)
    dets, expected = batched_nms(*map(torch.from_numpy, (
        boxes, scores, groups)), cfg)
    found = postprocess.grouped_nms(boxes, scores, groups,
                                    graph.read_nms(cfg, nn.Module()), -1)
    assert found.tolist() == expected.tolist()
    assert len(found) < 600


@pytest.mark.parametrize('clip', [True, False])
def test_deltas_are_mmdets(clip):
    rng = np.random.default_rng(0)
    coder = DeltaXYWHBBoxCoder((0.1, 0, -0.1, 0), (0.1, 0.1, 0.2, 0.3),
                               clip_border=clip)
    boxes = some_boxes(rng, 200)
    deltas = rng.normal(0, 8, (200, 4)).astype(np.float32)
    expected = coder.decode(torch.from_numpy(boxes),
                            torch.from_numpy(deltas), max_shape=(120, 180))
    found = postprocess.decode(boxes, deltas, (120, 180),
                                   two_stage._read_coder(coder))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_anchors_are_mmdets():
    generator = AnchorGenerator([(8, 4)], [0.5, 2], [3], center_offset=0.5)
    expected, = generator.grid_priors([(5, 7)], device='cpu')
    index = np.random.default_rng(0).permutation(5 * 7 * 2)
    found = postprocess.get_anchors(
        generator.base_anchors[0].tolist(), generator.strides[0], (5, 7),
        index)
    np.testing.assert_array_equal(found, expected[index])


def test_masks_are_pasted_as_mmdet_does():
    rng = np.random.default_rng(0)
    boxes = some_boxes(rng, 60, 100).clip(0, np.float32([110, 90] * 2))
    logits = rng.normal(0, 3, (60, 1, 28, 28)).astype(np.float32)
    expected = FCNMaskHead(num_classes=1, class_agnostic=True).predict_by_feat(
        [torch.from_numpy(logits)],
        [InstanceData(bboxes=torch.from_numpy(boxes.copy()),
                      labels=torch.zeros(60, dtype=torch.long))],
        [dict(scale_factor=(1, 1), ori_shape=(90, 110))],
        ConfigDict(mask_thr_binary=0.5))[0].masks.numpy()
    found = postprocess.paste(1 / (1 + np.exp(-logits[:, 0])), boxes,
                                  (90, 110), 0.5)
    assert expected[20:25].any()  # boxes without width are a line
    assert (found != expected).sum() <= 1e-5 * expected.sum() > 0
