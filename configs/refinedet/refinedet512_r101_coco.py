# RefineDet's authors: 36.4 AP on COCO test-dev.
_base_ = [
    '../_base_/models/refinedet_r101.py',
    '../_base_/datasets/coco_ssd512.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/refinedet_coco_540k.py',
    '../_base_/tta/refinedet512.py'
]
train_dataloader = dict(batch_size=5)
