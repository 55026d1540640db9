# densenet-40_shapes.py with 12 layers of 20 channels in each OSA block.
_base_ = 'densenet-40_shapes.py'
model = dict(backbone=dict(arch='OSA-12/20'), head=dict(in_channels=736))
