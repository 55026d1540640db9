# DSOD300 with VoVNet-27-slim on BCCD, from scratch on a CPU:
#   python tools/train.py configs/dsod/dsod300_vovnet-27-slim_bccd.py
# Model, size and priors are those of dsod300_vovnet-27-slim_voc0712.py.
_base_ = [
    '../_base_/models/dsod300_vovnet-27-slim.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adamw_small.py', '../_base_/default_runtime.py'
]
model = dict(bbox_head=dict(num_classes=3))

scale = (300, 300)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[3].scale = train_pipeline[4].crop_size = scale
test_pipeline[1].scale = scale
# 8 images are also what batch norm sees.
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# 24 epochs x 205 images / 8 = 624 iterations.
max_epochs = 24
train_cfg = dict(max_epochs=max_epochs, val_interval=8)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
default_hooks = dict(
    checkpoint=dict(interval=8, max_keep_ckpts=1), logger=dict(interval=13))
# The order in which a CPU computes convolutions fastest.
custom_hooks = [dict(type='vovnet.engine.ChannelsLastHook')]
randomness = dict(seed=0)
