# The paper: 41.0 box AP, 36.4 mask AP (Table 5), from random weights.
_base_ = './mask-rcnn_vovnet-39_fpn_gn-scratch-3x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=101,
        zero_init_residual=False,
        norm_cfg=dict(type='GN', num_groups=32, requires_grad=True)),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
