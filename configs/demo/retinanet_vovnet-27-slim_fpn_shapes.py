# RetinaNet with VoVNet-27-slim on the generated shapes, small enough to be
# trained from scratch on a CPU in minutes: `make demo`.
_base_ = [
    '../_base_/models/retinanet_vovnet-27-slim_fpn_small.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/adamw_small.py', '../_base_/default_runtime.py'
]
model = dict(
    # Shapes are at most 90 px and about as wide as high: three levels and
    # square anchors see them.
    neck=dict(num_outs=3),
    bbox_head=dict(
        num_classes=5,
        anchor_generator=dict(ratios=[1.0], strides=[8, 16, 32])))

# 3 epochs x 1400 images / 4 = 1050 iterations.
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=4)
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
default_hooks = dict(logger=dict(interval=20))
randomness = dict(seed=0)
