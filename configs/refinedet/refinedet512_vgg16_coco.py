# RefineDet's authors: 33.0 AP on COCO test-dev, with batches of 32 (4 GPUs x
# 8) at this size too.
_base_ = [
    '../_base_/models/refinedet_vgg16.py',
    '../_base_/datasets/coco_ssd512.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/refinedet_coco_400k.py',
    '../_base_/tta/refinedet512.py'
]
train_dataloader = dict(batch_size=8)
