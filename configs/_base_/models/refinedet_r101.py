# ResNet-101 in RefineDet. Unlike mmdet's custom nothing is frozen: batch norm
# learns as in the authors' script.
_base_ = './refinedet_vovnet-39.py'
in_channels = (512, 1024, 2048)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=101,
        out_indices=(1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='caffe',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='open-mmlab://detectron2/resnet101_caffe')),
    neck=dict(in_channels=in_channels),
    bbox_head=dict(in_channels=(*in_channels, 512)))
