# RefineDet with VoVNet-27-slim on the generated shapes, small enough to be
# trained from scratch on a CPU in minutes: python tools/train.py <this file>
# (the data: tools/dataset_converters/make_shapes.py data/shapes
# --num-train 1400 --num-val 200).
_base_ = [
    '../_base_/models/refinedet_vovnet-27-slim_small.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/adamw_small.py', '../_base_/default_runtime.py'
]
model = dict(
    bbox_head=dict(
        num_classes=5,
        # Shapes are of 16 to 72 px here: squares of 24 to 192 px.
        anchor_generator=dict(scales=[3.0])))

# 160 px made 128, so that the four maps halve evenly: 16, 8, 4 and 2.
scale = (128, 128)
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = scale
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# 5 epochs x 1400 images / 4 = 1750 iterations.
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=4)
max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
default_hooks = dict(logger=dict(interval=20))
randomness = dict(seed=0)
