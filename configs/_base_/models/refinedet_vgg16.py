# RefineDet's own network: VGG-16, no batch norm, no residual blocks before the
# predictors, the first two sources scaled to a learned length.
_base_ = './refinedet_vovnet-39.py'
in_channels = (512, 512, 1024)
model = dict(
    # The weights are Caffe's with the channels of the first layer swapped.
    data_preprocessor=dict(mean=[123, 117, 104], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type='RefineDetVGG',
        init_cfg=dict(
            type='Pretrained', checkpoint='open-mmlab://vgg16_caffe')),
    neck=dict(
        in_channels=in_channels,
        l2_norm_scales=(10.0, 8.0, None),
        norm_cfg=None),
    bbox_head=dict(in_channels=(*in_channels, 512), inter_planes=None))
