# densenet-40_shapes.py with 5 layers of 43 channels in each OSA block.
_base_ = 'densenet-40_shapes.py'
model = dict(backbone=dict(arch='OSA-5/43'), head=dict(in_channels=661))
