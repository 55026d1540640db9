# 1x: 12 epochs x 117266 images / 16 (8 GPUs x 2) = 87950 iterations, the
# learning rate divided by 10 after epochs 8 and 11.
_base_ = [
    '../_base_/models/mask-rcnn_vovnet-39_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py'
]
