# DenseNet-201 in RefineDet, by the recipe of VoVNet; which of its maps are
# taken, and why: projects/vovnet/models/backbones/refinedet_densenet.py.
# backbone.memory_efficient=True trades time for memory.
_base_ = './refinedet_vovnet-39.py'
in_channels = (256, 896, 1920)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        # In full, so that only these configs import mmpretrain.
        type='vovnet.models.backbones.refinedet_densenet.RefineDetDenseNet',
        arch='201',
        out_indices=(1, 2, 3),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/'
            'densenet/densenet201_4xb256_in1k_20220426-05cae4ef.pth',
            prefix='backbone.')),
    neck=dict(in_channels=in_channels),
    bbox_head=dict(in_channels=(*in_channels, 512)))
