# VoVNet before Mask R-CNN, for training from random weights: group norm in
# the backbone, the pyramid and the heads, and four convolutions in the box
# head. (The paper's Table 5; vov-net/VoVNet-Detectron@0176f70,
# configs/vovnet/scratch_mask_rcnn_V_*_FPN_3x_gn.yaml. Its backbone is the
# released one, with the strided stem and identity connections; whether
# Table 5 was made with it or with the paper's is not known.)
_base_ = './mask-rcnn_vovnet-39_fpn_mb.py'
norm_cfg = dict(type='GN', num_groups=32, requires_grad=True)
model = dict(
    backbone=dict(norm_cfg=norm_cfg, norm_eval=False),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg)))
