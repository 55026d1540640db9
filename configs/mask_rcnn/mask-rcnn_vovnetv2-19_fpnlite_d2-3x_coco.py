# "FPNLite": the pyramid has 128 channels instead of 256, and so has what
# reads it.
_base_ = './mask-rcnn_vovnetv2-19_fpn_d2-3x_coco.py'
model = dict(
    neck=dict(out_channels=128),
    rpn_head=dict(in_channels=128, feat_channels=128),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128),
        bbox_head=dict(in_channels=128),
        mask_roi_extractor=dict(out_channels=128),
        mask_head=dict(in_channels=128)))
