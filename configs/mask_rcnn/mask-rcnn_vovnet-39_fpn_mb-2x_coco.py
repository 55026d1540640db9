# VoVNet before Mask R-CNN, as in maskrcnn-benchmark: the network that the
# authors released, not the paper's; batch norm keeps the statistics and the
# scales of ImageNet, images are BGR and only their mean is subtracted, anchors
# that cross an image's border do not learn.
# (vov-net/VoVNet-Detectron@0176f70, configs/vovnet/e2e_*_2x.yaml and
# maskrcnn_benchmark/config/defaults.py.)
# Not taken over are its older conventions: a box that is one pixel wider than
# its corners' distance, RoIAlign shifted by half a pixel with 2 x 2 points
# per bin, and 2000 proposals of the whole batch.
#
# The weights' address has been reported dead; give the path of a copy.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/iter_based_runtime.py', '../_base_/schedules/mb_2x.py'
]
checkpoint = ('https://dl.dropbox.com/s/'
              's7f4vyfybyc9qpr/vovnet39_statedict_norm.pth?dl=1')
model = dict(
    data_preprocessor=dict(
        mean=[102.9801, 115.9465, 122.7717],
        std=[1., 1., 1.],
        bgr_to_rgb=False),
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V1-39',
        stem='strided',
        residual=True,
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=[256, 512, 768, 1024]),
    rpn_head=dict(
        loss_bbox=dict(
            _delete_=True, type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0)),
    roi_head=dict(
        bbox_head=dict(
            loss_bbox=dict(
                _delete_=True, type='SmoothL1Loss', beta=1.0,
                loss_weight=1.0))),
    train_cfg=dict(rpn=dict(allowed_border=0)))
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
