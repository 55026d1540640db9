# The paper: 41.0 box AP, 36.4 mask AP (Table 5), from random weights.
_base_ = './mask-rcnn_r50_fpn_gn-scratch-3x_coco.py'
model = dict(backbone=dict(depth=101))
