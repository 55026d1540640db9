_base_ = 'vovnet-39_8xb32_in1k.py'
model = dict(
    backbone=dict(arch='V1-27-slim'), head=dict(in_channels=512))
