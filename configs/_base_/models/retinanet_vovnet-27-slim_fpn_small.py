# A small RetinaNet that is trained from scratch, on a CPU if need be: norms
# everywhere (batch norm where the statistics are one level's, group norm in
# the head, which all levels share), 96 channels, two convolutions in the head.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True, type='VoVNet', arch='V1-27-slim',
        out_indices=(1, 2, 3)),
    neck=dict(
        _delete_=True,
        type='FPN',
        in_channels=[256, 384, 512],
        out_channels=96,
        num_outs=4,
        norm_cfg=dict(type='BN')),
    bbox_head=dict(
        in_channels=96,
        feat_channels=96,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=16),
        # Anchors of 24 to 305 px.
        anchor_generator=dict(octave_base_scale=3, strides=[8, 16, 32, 64])))
# The order in which a CPU computes convolutions fastest.
custom_hooks = [dict(type='vovnet.engine.ChannelsLastHook')]
