# A small RefineDet that is trained from scratch, on a CPU if need be: a slim
# backbone, 96 channels in the transfer connection blocks, no residual blocks
# before the predictors.
_base_ = './refinedet_vovnet-39.py'
in_channels = (256, 384, 512)
model = dict(
    backbone=dict(arch='V1-27-slim'),
    neck=dict(in_channels=in_channels, extra_channels=256, out_channels=96),
    bbox_head=dict(
        in_channels=(*in_channels, 256), feat_channels=96, inter_planes=None))
# The order in which a CPU computes convolutions fastest.
custom_hooks = [dict(type='vovnet.engine.ChannelsLastHook')]
