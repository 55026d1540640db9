_base_ = './retinanet_vovnet-39_fpn_1x_coco.py'
model = dict(backbone=dict(arch='V2-39'))
