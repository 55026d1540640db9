# The paper: 41.9 box AP, 37.0 mask AP (Table 5), from random weights.
_base_ = './mask-rcnn_vovnet-39_fpn_gn-scratch-3x_coco.py'
model = dict(backbone=dict(arch='V1-57'))
