# Pelee: 70.9 mAP (VoVNet paper's Table 2 and its own). 120k iterations of 32
# images, the rate of 0.005 divided by 10 after 80k and 100k; neither colors
# are distorted nor images expanded (Robert-JunWang/Pelee@033dfd6,
# train_voc.py). It starts from ImageNet weights there, from random ones here.
_base_ = [
    '../_base_/models/dsod300_vovnet-27-slim.py',
    '../_base_/datasets/voc0712_ssd300.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/dsod_100k.py'
]
size = 304
channels = [256] * 6
model = dict(
    data_preprocessor=dict(
        mean=[103.94, 116.78, 123.68], std=[1 / 0.017] * 3),
    backbone=dict(_delete_=True, type='PeleeNet', out_indices=(2, 3)),
    neck=dict(_delete_=True, type='PeleeNeck', in_channels=[512, 704]),
    bbox_head=dict(
        _delete_=True,
        type='MultiBoxHead',
        num_classes=20,
        in_channels=channels,
        kernel_size=1,
        anchor_generator=dict(
            type='PriorBoxGenerator',
            # Maps of 19 (twice), 10, 5, 3 and 1 px.
            strides=[size / n for n in (19, 19, 10, 5, 3, 1)],
            # 10, 20, 37, 54, 71, 88 and 105 percent.
            min_sizes=[size * p / 100 for p in (10, 20, 37, 54, 71, 88)],
            max_sizes=[size * p / 100 for p in (20, 37, 54, 71, 88, 105)],
            ratios=[[2, 3]] * 6),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])))

train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[6].scale = test_pipeline[1].scale = (size, size)
del train_pipeline[3:5]
train_dataloader = _base_.train_dataloader
train_dataloader.batch_size = 32
train_dataloader.dataset.datasets[0].pipeline = train_pipeline
train_dataloader.dataset.datasets[1].pipeline = train_pipeline
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=120000)
optim_wrapper = dict(
    optimizer=dict(lr=0.005),
    paramwise_cfg=dict(_delete_=True, bias_lr_mult=2., bias_decay_mult=0.))
param_scheduler = _base_.param_scheduler
param_scheduler[0].milestones = [80000, 100000]
auto_scale_lr = dict(base_batch_size=32)  # 1 GPU x 32
