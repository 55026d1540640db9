# VoVNetV2 before FCOS, as AdelaiDet and centermask2 have it: batch norm keeps
# the statistics and the scales of ImageNet, images are BGR and only their
# mean is subtracted. P6 and P7 are made from P5; distances are ReLU times the
# stride, centerness is predicted beside them, and the points at most 1.5
# strides from an object's center learn it with GIoU.
# (aim-uofa/AdelaiDet@3672122, configs/FCOS-Detection/vovnet/MS_V_*_3x.yaml
# and adet/config/defaults.py.)
# Scores are class times centerness, of which AdelaiDet takes the root: the
# order, and with it AP, is the same.
#
# AdelaiDet: half of the two-stage detectors' rate. The weights are the
# authors' (CC BY-NC 4.0), at an address that has been reported dead;
# docs/model_zoo.md says how to start from timm's.
_base_ = [
    '../_base_/datasets/coco_detection_d2.py',
    '../_base_/iter_based_runtime.py', '../_base_/schedules/d2_3x.py'
]
checkpoint = ('https://www.dropbox.com/s/'
              'q98pypf96rhtd8y/vovnet39_ese_detectron2.pth?dl=1')
model = dict(
    type='FCOS',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[103.53, 116.28, 123.675],
        std=[1., 1., 1.],
        bgr_to_rgb=False,
        pad_size_divisor=32),
    backbone=dict(
        type='VoVNet',
        arch='V2-39',
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(
        type='FPN',
        in_channels=[512, 768, 1024],
        out_channels=256,
        add_extra_convs='on_output',
        relu_before_extra_convs=True,
        num_outs=5),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        strides=[8, 16, 32, 64, 128],
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        center_sample_radius=1.5,
        conv_bias=True,
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0)),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100))
optim_wrapper = dict(optimizer=dict(lr=0.01))
