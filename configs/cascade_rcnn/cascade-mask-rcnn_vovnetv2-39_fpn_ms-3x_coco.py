# Cascade Mask R-CNN with mmdet's recipe, from timm's ImageNet weights
# (Apache-2.0), whose eSE sits in the last block of each stage.
# ms-3x: shorter side 640 to 800; 12 epochs of the images thrice, 12 x 3 x
# 117266 / 16 (8 GPUs x 2) = 263848 iterations, the rate divided by 10 after
# epochs 9 and 11.
_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/default_runtime.py', 'mmdet::_base_/schedules/schedule_1x.py'
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V2-39',
        ese='last',
        # In a single process MMEngine makes it batch norm.
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='timm://ese_vovnet39b.ra_in1k')),
    neck=dict(in_channels=[256, 512, 768, 1024]))

train_pipeline = _base_.train_pipeline
train_pipeline[1].poly2mask = False
train_pipeline[2] = dict(
    type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True)
dataset = _base_.train_dataloader.dataset
dataset.pipeline = train_pipeline
train_dataloader = dict(
    dataset=dict(
        _delete_=True, type='RepeatDataset', times=3, dataset=dataset))
param_scheduler = _base_.param_scheduler
param_scheduler[1].milestones = [9, 11]
