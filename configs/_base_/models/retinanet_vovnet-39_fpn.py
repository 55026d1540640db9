# VoVNet before mmdet's RetinaNet. Synchronized batch norm learns from
# the images of all GPUs, so that the backbone may start from random or from
# ImageNet weights and nothing is frozen; in a single process MMEngine makes
# it batch norm.
#
# docs/weights.md says how to start from ImageNet weights.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V1-39',
        norm_cfg=dict(type='SyncBN', requires_grad=True)),
    neck=dict(in_channels=[256, 512, 768, 1024]))
