# DSOD's smallest network, DS/64-64-16-1: 73.6 mAP. It is the VoVNet paper's
# DenseNet-67 (Table 2).
_base_ = './dsod300_ds-64-192-48-1_voc0712.py'
channels = [352, 512, 512, 256, 256, 256]
model = dict(
    backbone=dict(growth_rate=16),
    neck=dict(in_channels=[352, 256], out_channels=channels),
    bbox_head=dict(in_channels=channels))
