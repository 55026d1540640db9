# The weights are the authors' (CC BY-NC 4.0), at an address that has been
# reported dead; docs/model_zoo.md says how to start from timm's.
_base_ = [
    '../_base_/models/mask-rcnn_vovnetv2-39_fpn_d2.py',
    '../_base_/datasets/coco_instance_d2.py',
    '../_base_/iter_based_runtime.py', '../_base_/schedules/d2_3x.py'
]
checkpoint = ('https://www.dropbox.com/s/'
              'q98pypf96rhtd8y/vovnet39_ese_detectron2.pth?dl=1')
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))
