# COCO: 320k iterations of 128 images (8 GPUs x 16), about 349 epochs of the
# 117266 images, the rate divided by 10 after 80k, 140k, 200k and 260k
# (szq0214/DSOD@bbb6f0f, DSOD300_coco.py). Smaller priors than VOC's.
_base_ = [
    '../_base_/models/dsod300_vovnet-27-slim.py',
    '../_base_/datasets/coco_ssd300.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/dsod_100k.py'
]
model = dict(
    bbox_head=dict(
        num_classes=80,
        anchor_generator=dict(basesize_ratio_range=(0.15, 0.9))))
train_cfg = dict(max_iters=320000)
param_scheduler = _base_.param_scheduler
param_scheduler[0].milestones = [80000, 140000, 200000, 260000]
