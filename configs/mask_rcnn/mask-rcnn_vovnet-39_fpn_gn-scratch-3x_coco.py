# The paper: 41.7 box AP, 36.8 mask AP (Table 5), from random weights.
# Group norm in the backbone, the pyramid and the heads, and four convolutions
# in the box head (vov-net/VoVNet-Detectron@0176f70,
# configs/vovnet/scratch_mask_rcnn_V_*_FPN_3x_gn.yaml). Its backbone is the
# released one, with the strided stem and identity connections; whether Table 5
# was made with it or with the paper's is not known. Everything else is that of
# mask-rcnn_vovnet-39_fpn_mb-2x_coco.py.
#
# 3x of maskrcnn-benchmark: 270k iterations of 16 images (8 GPUs x 2), 36.8
# epochs, the rate of 0.02 divided by 10 after 210k and 250k; it grows from a
# third over 500 iterations.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/iter_based_runtime.py', '../_base_/schedules/mb_2x.py'
]
norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    data_preprocessor=dict(
        mean=[102.9801, 115.9465, 122.7717],
        std=[1., 1., 1.],
        bgr_to_rgb=False),
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V1-39',
        stem='strided',
        residual=True,
        norm_cfg=norm_cfg,
        norm_eval=False),
    neck=dict(in_channels=[256, 512, 768, 1024], norm_cfg=norm_cfg),
    rpn_head=dict(
        loss_bbox=dict(
            _delete_=True, type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0)),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=norm_cfg,
            loss_bbox=dict(
                _delete_=True, type='SmoothL1Loss', beta=1.0,
                loss_weight=1.0)),
        mask_head=dict(norm_cfg=norm_cfg)),
    train_cfg=dict(rpn=dict(allowed_border=0)))
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
train_cfg = dict(max_iters=270000, val_interval=30000)
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 1 / 3
param_scheduler[1].milestones = [210000, 250000]
