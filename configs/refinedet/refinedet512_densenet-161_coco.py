# Not in the paper: it says that four GPUs of 32 GB are too small.
_base_ = [
    '../_base_/models/refinedet_densenet-161.py',
    '../_base_/datasets/coco_ssd512.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/refinedet_coco_540k.py',
    '../_base_/tta/refinedet512.py'
]
train_dataloader = dict(batch_size=5)
