# VoVNet-27-slim tells the generated shapes apart: trained on a CPU in one or
# two minutes. Its checkpoint can start the detectors beside this file.
_base_ = [
    '../_base_/models/vovnet-39_classifier.py',
    '../_base_/datasets/shape_folders.py',
    '../_base_/schedules/adamw_small.py', '../_base_/classification_runtime.py'
]
model = dict(
    backbone=dict(arch='V1-27-slim'),
    head=dict(in_channels=512, num_classes=5, topk=(1, )))

# 3 epochs x 2000 pictures / 16 = 375 iterations.
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(logger=dict(interval=25))
custom_hooks = [dict(type='vovnet.engine.ChannelsLastHook')]
randomness = dict(seed=0)
