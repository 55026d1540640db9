# 1x: 12 epochs x 117266 images / 16 (8 GPUs x 2) = 87950 iterations, the
# learning rate divided by 10 after epochs 8 and 11.
#
# Synchronized batch norm learns from the images of all GPUs, so the backbone
# may start from random or from ImageNet weights (docs/weights.md) and nothing
# is frozen; in a single process MMEngine makes it batch norm.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py'
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V1-39',
        norm_cfg=dict(type='SyncBN', requires_grad=True)),
    neck=dict(in_channels=[256, 512, 768, 1024]))
