# RefineDet's authors: 29.4 AP on COCO test-dev.
_base_ = [
    '../_base_/models/refinedet_vgg16.py',
    '../_base_/datasets/coco_ssd320.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/refinedet_coco_400k.py',
    '../_base_/tta/refinedet320.py'
]
train_dataloader = dict(batch_size=8)
