"""A small detector as a config, for what is measured and not what it is."""
import pytest
from mmengine.config import Config

MODEL = dict(
    type='FCOS',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(
        type='VoVNet', out_indices=(1, 2),
        arch=dict(
            stem_channels=(8, 8, 8), stage_channels=(8, 8, 8),
            aggregated_channels=(16, 16, 16), num_blocks=(1, 1, 1),
            num_layers=2)),
    neck=dict(type='FPN', in_channels=[16, 16], out_channels=16, num_outs=2),
    bbox_head=dict(
        type='FCOSHead', num_classes=5, in_channels=16, feat_channels=16,
        stacked_convs=1, strides=[8, 16],
        regress_ranges=((-1, 32), (32, 1e8)),
        norm_cfg=dict(type='GN', num_groups=4)),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.,
        nms=dict(type='nms', iou_threshold=0.5), max_per_img=7))
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]


@pytest.fixture
def tiny():
    """FCOS with 8 to 16 channels, 64 px in its test pipeline, no data."""
    return Config(
        dict(model=MODEL, default_scope='mmdet', test_dataloader=dict(
            dataset=dict(type='CocoDataset', pipeline=PIPELINE))),
        cfg_text=' ', filename='tiny.py')
