# The paper: 33.5 AP on COCO test-dev (Table 4).
_base_ = [
    '../_base_/models/refinedet_densenet-161.py',
    '../_base_/datasets/coco_ssd320.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/refinedet_coco_400k.py',
    '../_base_/tta/refinedet320.py'
]
train_dataloader = dict(batch_size=8)
