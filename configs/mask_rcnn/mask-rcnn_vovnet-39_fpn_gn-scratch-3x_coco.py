# The paper: 41.7 box AP, 36.8 mask AP (Table 5), from random weights.
# 3x of maskrcnn-benchmark: 270k iterations of 16 images (8 GPUs x 2), 36.8
# epochs, the rate of 0.02 divided by 10 after 210k and 250k; it grows from a
# third over 500 iterations.
_base_ = [
    '../_base_/models/mask-rcnn_vovnet-39_fpn_gn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/iter_based_runtime.py', '../_base_/schedules/mb_2x.py'
]
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
train_cfg = dict(max_iters=270000, val_interval=30000)
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 1 / 3
param_scheduler[1].milestones = [210000, 250000]
