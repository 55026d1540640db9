_base_ = './mask-rcnn_vovnet-39_fpn_1x_coco.py'
model = dict(backbone=dict(arch='V1-57'))
