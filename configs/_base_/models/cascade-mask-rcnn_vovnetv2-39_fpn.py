# VoVNetV2 before mmdet's Cascade Mask R-CNN, from timm's ImageNet weights.
# Synchronised batch norm learns from the images of all GPUs; in a single
# process MMEngine makes it batch norm.
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V2-39',
        ese='last',
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='timm://ese_vovnet39b.ra_in1k')),
    neck=dict(in_channels=[256, 512, 768, 1024]))
