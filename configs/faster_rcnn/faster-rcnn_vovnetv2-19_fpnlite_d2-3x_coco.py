# faster-rcnn_vovnetv2-39_fpn_d2-3x_coco.py with V2-19 and "FPNLite": the
# pyramid has 128 channels instead of 256, and so has what reads it.
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection_d2.py',
    '../_base_/iter_based_runtime.py', '../_base_/schedules/d2_3x.py'
]
checkpoint = ('https://www.dropbox.com/s/'
              'rptgw6stppbiw1u/vovnet19_ese_detectron2.pth?dl=1')
model = dict(
    data_preprocessor=dict(
        mean=[103.53, 116.28, 123.675], std=[1., 1., 1.], bgr_to_rgb=False),
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V2-19',
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[256, 512, 768, 1024], out_channels=128),
    rpn_head=dict(in_channels=128, feat_channels=128),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128)))
