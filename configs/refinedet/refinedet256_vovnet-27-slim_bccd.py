# RefineDet with VoVNet-27-slim on BCCD, from scratch on a CPU:
#   python tools/train.py <this file>
# and, for the test split,
#   python tools/test.py <this file> work_dirs/<...>/epoch_20.pth
_base_ = [
    '../_base_/models/refinedet_vovnet-27-slim_small.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_small.py', '../_base_/default_runtime.py'
]
model = dict(
    bbox_head=dict(
        num_classes=3,
        # Platelets are of 14 to 25 px here, red cells of 40 to 55, white
        # ones of 55 to 110: squares of 24 to 192 px.
        anchor_generator=dict(scales=[3.0])))

# 20 epochs x 205 images / 4 = 1040 iterations.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=4)
max_epochs = 20
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=4, max_keep_ckpts=1))
randomness = dict(seed=0)
