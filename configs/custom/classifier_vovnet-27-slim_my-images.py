# Your own images, in a folder for each class: copy this file, change the block
# below, and see docs/imagenet.md. From scratch, on a GPU or, for some hundred
# images, on a CPU.
_base_ = [
    '../_base_/models/vovnet-39_classifier.py',
    '../_base_/schedules/adamw_small.py', '../_base_/classification_runtime.py'
]

# --- yours to change -------------------------------------------------------
data_root = 'data/my_images/'
# Folders of data_root, with a folder for each class in them.
train_images, val_images, test_images = 'train', 'val', 'test'
num_classes = 2
max_epochs = 100
batch_size = 16
num_workers = 2
# The side of the square that the network sees, px.
size = 160
# ---------------------------------------------------------------------------

model = dict(
    backbone=dict(arch='V1-27-slim'),
    head=dict(in_channels=512, num_classes=num_classes, topk=(1, )))
data_preprocessor = dict(
    num_classes=num_classes,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=size * 8 // 7, edge='short'),
    dict(type='CenterCrop', crop_size=size),
    dict(type='PackInputs')
]
loader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0)
folder = dict(type='CustomDataset', data_root=data_root)
train_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**folder, data_prefix=train_images, pipeline=train_pipeline))
val_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**folder, data_prefix=val_images, pipeline=test_pipeline))
test_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**folder, data_prefix=test_images, pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=max(1, max_epochs // 10))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
# The rate is for 16 images at a time: --auto-scale-lr fits it to others.
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=3, save_best='accuracy/top1'))
