"""Tiny one-stage detectors whose scores are spread, and pictures for them."""
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import nn

import vovnet  # noqa: F401
from vovnet.datasets import draw_scene
from vovnet.deploy.export.export import (
    build_graphs,
    choose_opset,
    write_graphs,
)

register_all_modules()
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
ARCH = dict(
    stem_channels=(8, 8, 8), stage_channels=(8, 8, 8),
    aggregated_channels=(16, 16, 16), num_blocks=(1, 1, 1), num_layers=2)
NMS = dict(type='nms', iou_threshold=0.5)
DENSE = dict(nms_pre=60, min_bbox_size=0, score_thr=0.05, nms=NMS,
             max_per_img=40)
CODER = dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])
FPN = dict(type='FPN', in_channels=[16, 16], out_channels=16, num_outs=3)
SSD_ANCHORS = dict(
    type='SSDAnchorGenerator', scale_major=False, input_size=64,
    min_sizes=[10, 20, 40], max_sizes=[20, 40, 60], strides=[8, 16, 32],
    ratios=[[2], [2, 3], [2]])
DENSE_HEAD = dict(num_classes=5, in_channels=16, feat_channels=16,
                  stacked_convs=1)
HEADS = dict(
    retinanet=dict(
        DENSE_HEAD, type='RetinaHead', anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=3, scales_per_octave=2,
            ratios=[0.5, 1.0], strides=[8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    retinanet_softmax=dict(
        DENSE_HEAD, type='RetinaHead', anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=3, scales_per_octave=1,
            ratios=[1.0], strides=[8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', clip_border=False,
                        target_means=[0.1, 0, -0.1, 0.2]),
        loss_cls=dict(type='CrossEntropyLoss')),
    fcos=dict(
        DENSE_HEAD, type='FCOSHead', strides=[8, 16, 32], norm_on_bbox=True,
        centerness_on_reg=True,
        regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
        norm_cfg=dict(type='GN', num_groups=4)),
    rtmdet=dict(
        DENSE_HEAD, type='RTMDetHead', with_objectness=False,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(type='MlvlPointGenerator', offset=0,
                              strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True)),
    dsod=dict(
        type='DSODHead', num_classes=5, in_channels=[16] * 3,
        anchor_generator=SSD_ANCHORS, bbox_coder=CODER),
    refinedet=dict(
        type='RefineDetHead', num_classes=5, in_channels=[16, 16],
        feat_channels=16, inter_planes=4, anchor_generator=dict(
            type='AnchorGenerator', scales=[3.0], ratios=[0.5, 1.0, 2.0],
            strides=[8, 16]),
        bbox_coder=CODER, objectness_thr=0.2))
PADDED = {'retinanet', 'retinanet_softmax', 'fcos', 'rtmdet'}
"""Take pictures of any proportions; the others of 64 x 64 px."""


def make_detector(name, test_cfg=None, spread=1.5, **head):
    """A detector in eval mode, and its config."""
    steps = [dict(type='LoadImageFromFile'),
             dict(type='Resize', scale=(96, 64) if name in PADDED else
                  (64, 64), keep_ratio=name in PADDED),
             dict(type='LoadAnnotations', with_bbox=True),
             dict(type='PackDetInputs', meta_keys=(
                 'ori_shape', 'img_shape', 'scale_factor'))]
    neck = dict(type='RefineDetNeck', in_channels=[16, 16],
                out_channels=16) if name == 'refinedet' else FPN
    test = DENSE if name in PADDED else dict(DENSE, nms_pre=20)
    cfg = Config(dict(
        model=dict(
            type='FCOS' if name == 'fcos' else 'SingleStageDetector',
            data_preprocessor=dict(
                type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53],
                std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
                pad_size_divisor=32 if name in PADDED else 1),
            backbone=dict(type='VoVNet', out_indices=(1, 2), arch=ARCH),
            neck=neck, bbox_head=dict(HEADS[name], **head),
            test_cfg=dict(test, **test_cfg or {})),
        test_dataloader=dict(dataset=dict(
            type='CocoDataset', ann_file='none.json', data_prefix={},
            pipeline=steps))))
    torch.manual_seed(1)
    model = MODELS.build(cfg.model).eval()
    model.dataset_meta = dict(classes=CLASSES)
    spread_scores(model, spread)
    return model, cfg


def spread_scores(model, spread):
    """Give every map some size, so that no scores tie and none is at 0 or 1.

    In one pass from the first layer to the last.
    """

    def rescale(conv, _, out):
        factor = spread / out.std()
        conv.weight *= factor
        if conv.bias is not None:
            conv.bias *= factor
        return out * factor

    hooks = [part.register_forward_hook(rescale) for part in model.modules()
             if isinstance(part, nn.Conv2d)]
    with torch.no_grad():
        model.bbox_head(model.extract_feat(torch.randn(1, 3, 64, 64)))
    for hook in hooks:
        hook.remove()


def pictures():
    """Three pictures: as wide as high, wide and high."""
    images = [draw_scene('val', i, size=96).image for i in range(3)]
    return [np.ascontiguousarray(image) for image in (
        images[0], images[1][:57], images[2][:, :50])]


def write(model, cfg, file, exporter='torchscript', opset=None, **options):
    """Write a detector's files without verifying them."""
    graphs, metadata = build_graphs(model, cfg, **options)
    return write_graphs(graphs, metadata, file, exporter,
                        choose_opset(exporter, opset))
