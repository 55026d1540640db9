# VoVNetV2 before Mask R-CNN, as vovnet-detectron2 has it: batch norm keeps
# the statistics and the scales of ImageNet, nothing else is frozen, images
# are BGR and only their mean is subtracted.
# (youngwanLEE/vovnet-detectron2@b81c813, configs/Base-RCNN-VoVNet-FPN.yaml.)
# What else there is (anchors, coding of boxes, aligned RoIAlign, L1 losses,
# numbers of proposals) is mmdet's own. detectron2_to_mmdet.py fills it with
# the authors' detectors.
#
# The weights are the authors' (CC BY-NC 4.0), at an address that has been
# reported dead; docs/model_zoo.md says how to start from timm's.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance_d2.py',
    '../_base_/iter_based_runtime.py', '../_base_/schedules/d2_3x.py'
]
checkpoint = ('https://www.dropbox.com/s/'
              'q98pypf96rhtd8y/vovnet39_ese_detectron2.pth?dl=1')
model = dict(
    data_preprocessor=dict(
        mean=[103.53, 116.28, 123.675], std=[1., 1., 1.], bgr_to_rgb=False),
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V2-39',
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[256, 512, 768, 1024]))
