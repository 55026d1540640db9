# DenseNet-161 in RefineDet, by the recipe of DenseNet-201.
_base_ = './refinedet_densenet-201.py'
in_channels = (384, 1056, 2208)
model = dict(
    backbone=dict(
        arch='161',
        init_cfg=dict(
            checkpoint='https://download.openmmlab.com/mmclassification/v0/'
            'densenet/densenet161_4xb256_in1k_20220426-ee6a80a9.pth')),
    neck=dict(in_channels=in_channels),
    bbox_head=dict(in_channels=(*in_channels, 512)))
