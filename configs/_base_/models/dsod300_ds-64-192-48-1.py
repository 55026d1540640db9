# DSOD300 with its own backbone: DenseNet with a growth rate of 48.
#
# Maps of 38, 19, 10, 5, 3 and 2 px: 8744 priors.
_base_ = './dsod300_vovnet-27-slim.py'
channels = [800, 512, 512, 256, 256, 256]
model = dict(
    backbone=dict(_delete_=True, type='DSODDenseNet', growth_rate=48),
    neck=dict(
        in_channels=[800, 256], out_channels=channels, fuse_channels=256),
    bbox_head=dict(in_channels=channels))
