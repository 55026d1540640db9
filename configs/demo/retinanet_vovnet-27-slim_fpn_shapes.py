# RetinaNet with VoVNet-27-slim on the generated shapes, small enough to be
# trained from scratch on a CPU in minutes: `make demo`.
_base_ = [
    '../_base_/models/retinanet_vovnet-27-slim_fpn_small.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/adamw_small.py', '../_base_/default_runtime.py'
]
model = dict(
    # Shapes are at most 90 px: the first three levels see them.
    neck=dict(num_outs=3),
    bbox_head=dict(
        num_classes=5, anchor_generator=dict(strides=[8, 16, 32])))

# 3 epochs x 1600 images / 8 = 600 iterations.
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
default_hooks = dict(logger=dict(interval=20))
randomness = dict(seed=0)
