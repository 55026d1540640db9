# The paper: 39.5 box AP, 35.2 mask AP (Table 5), from random weights.
_base_ = './mask-rcnn_vovnet-39_fpn_gn-scratch-3x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=50,
        zero_init_residual=False,
        norm_cfg=dict(type='GN', num_groups=32, requires_grad=True)),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
