_base_ = './faster-rcnn_vovnet-39_fpn_1x_coco.py'
model = dict(
    backbone=dict(arch='V2-19-slim-dw'),
    neck=dict(in_channels=[112, 256, 384, 512]))
