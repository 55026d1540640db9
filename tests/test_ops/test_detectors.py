"""Whole detectors of mmdet on these operators: a step and a prediction."""
import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torchvision.ops import box_iou

R18 = dict(depth=18, init_cfg=None)
FPN = dict(in_channels=[64, 128, 256, 512])
FEW_BOXES = dict(train_cfg=dict(rcnn=dict(sampler=dict(num=32))),
                 test_cfg=dict(rpn=dict(max_per_img=100)))
DETECTORS = {
    'retinanet': ('retinanet/retinanet_r18_fpn_1x_coco.py',
                  dict(backbone=R18)),
    'fcos': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
             dict(backbone=R18, neck=FPN)),
    'mask_rcnn': ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
                  dict(backbone=R18, neck=FPN, **FEW_BOXES)),
    'faster_rcnn_dcn': ('dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
                        dict(backbone=dict(init_cfg=None), **FEW_BOXES)),
}
CLASSES = 4


@pytest.fixture(scope='module', params=DETECTORS)
def detector(request, tmp_path_factory):
    """Build a detector from its ``mmdet::`` config, as a project would."""
    base, model = DETECTORS[request.param]
    path = tmp_path_factory.mktemp('configs') / f'{request.param}.py'
    path.write_text(f"_base_ = 'mmdet::{base}'\nmodel = {model!r}\n")
    register_all_modules()
    cfg = Config.fromfile(path).model
    for head in ('bbox_head', 'mask_head'):
        holder = cfg.get('roi_head', cfg)
        if head in holder:
            holder[head].num_classes = CLASSES
    torch.manual_seed(0)
    detector = MODELS.build(cfg)
    detector.init_weights()
    return detector


def compute_losses(detector):
    """Compute loss tensors by name, on two generated images."""
    data = demo_mm_inputs(
        2, image_shapes=[(3, 96, 128), (3, 128, 96)], num_items=[3, 5],
        num_classes=CLASSES, with_mask=True)
    data = detector.data_preprocessor(data, training=True)
    return detector(**data, mode='loss')


def predict(detector):
    data = demo_mm_inputs(
        1, image_shapes=[(3, 96, 128)], num_items=[0], num_classes=CLASSES)
    with torch.no_grad():
        return copy.deepcopy(detector).eval().test_step(data)[0].pred_instances


def test_a_step_reaches_every_parameter(detector):
    losses = compute_losses(detector)
    total, _ = detector.parse_losses(losses)
    assert torch.isfinite(total) and total > 0
    total.backward()
    for key, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
    # Boxes and masks found their targets: their losses are not zero.
    for key, value in losses.items():
        if 'bbox' in key or 'mask' in key:
            assert sum(value if isinstance(value, list) else [value]) > 0, key


def test_predictions_have_passed_the_nms(detector):
    test_cfg = detector.test_cfg.get('rcnn', detector.test_cfg)
    test_cfg.score_thr = 0.  # a fresh detector is sure of nothing
    found = predict(detector)
    assert 10 < len(found) <= test_cfg.max_per_img
    assert (found.scores.diff() <= 0).all()
    same = found.labels[:, None] == found.labels
    same.fill_diagonal_(False)
    overlaps = box_iou(found.bboxes, found.bboxes)[same]
    assert (overlaps <= test_cfg.nms.iou_threshold + 1e-4).all()
    if detector.with_mask:
        assert found.masks.shape == (len(found), 96, 128)
