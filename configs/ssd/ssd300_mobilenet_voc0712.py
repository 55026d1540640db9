# SSD300 on MobileNet: 68.0 mAP in the VoVNet paper's Table 2, which took the
# figure from Pelee's. Layers, priors and the schedule's rates are those of
# chuanqi305/MobileNet-SSD: 120k iterations, RMSProp at 5e-4, halved after 20k
# and 40k. It has 24 images in a batch, learns its ImageNet layers at a tenth
# of the rate and lets their norms not decay; this has 32 images, starts from
# random weights and treats all layers alike.
_base_ = [
    '../_base_/models/dsod300_vovnet-27-slim.py',
    '../_base_/datasets/voc0712_ssd300.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/dsod_100k.py'
]
channels = [512, 1024, 512, 256, 256, 128]
model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(_delete_=True, type='MobileNetV1', out_indices=(11, 13)),
    neck=dict(
        _delete_=True,
        type='SSDNeck',
        in_channels=channels[:2],
        out_channels=channels,
        level_strides=(2, 2, 2, 2),
        level_paddings=(1, 1, 1, 1),
        l2_norm_scale=None,
        norm_cfg=dict(type='BN')),
    bbox_head=dict(
        _delete_=True,
        type='MultiBoxHead',
        num_classes=20,
        in_channels=channels,
        kernel_size=1,
        anchor_generator=dict(
            type='PriorBoxGenerator',
            # Maps of 19, 10, 5, 3, 2 and 1 px.
            strides=[300 / n for n in (19, 10, 5, 3, 2, 1)],
            min_sizes=[60, 105, 150, 195, 240, 285],
            max_sizes=[None, 150, 195, 240, 285, 300],
            ratios=[[2], *[[2, 3]] * 5]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])))

train_pipeline = _base_.train_pipeline
train_pipeline[4].mean = [127.5] * 3  # of the expansion's border
train_dataloader = _base_.train_dataloader
train_dataloader.batch_size = 32
train_dataloader.dataset.datasets[0].pipeline = train_pipeline
train_dataloader.dataset.datasets[1].pipeline = train_pipeline
train_cfg = dict(max_iters=120000)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='RMSprop', lr=5e-4, alpha=0.99, weight_decay=5e-5))
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[20000, 40000],
        gamma=0.5)
]
auto_scale_lr = dict(base_batch_size=32)  # 1 GPU x 32
