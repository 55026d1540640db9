# The study of the VoVNet paper's section 3.2 at a reduced scale, for a CPU:
# ten classes of generated pictures in place of CIFAR-10, 2000 of them in place
# of 50000, 8 epochs in place of 300, and AdamW with one cosine and 16 pictures
# a step, which gets somewhere in so little time. Network and augmentation are
# those of densenet-40_1xb64_cifar10.py.
#   python tools/dataset_converters/make_shape_folders.py data/shapes_ten \
#       --size 32 --classes ten --num-train 200 --num-val 100
_base_ = [
    '../_base_/models/densenet-40_classifier.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/classification_runtime.py'
]
data_preprocessor = dict(
    num_classes=10,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

# Shifted and mirrored, as CIFAR-10's are.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset',
        data_root='data/shapes_ten',
        data_prefix='train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset',
        data_root='data/shapes_ten',
        data_prefix='val',
        pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_dataloader = val_dataloader
test_evaluator = val_evaluator

# 8 epochs x 2000 pictures / 16 = 1000 iterations.
max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
# adamw_small.py's rate is for 8 pictures a step.
optim_wrapper = dict(optimizer=dict(lr=4e-3))
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(logger=dict(interval=25))
custom_hooks = [dict(type='vovnet.engine.ChannelsLastHook')]
randomness = dict(seed=0)
