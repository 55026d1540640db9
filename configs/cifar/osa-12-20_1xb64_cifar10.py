# densenet-40_1xb64_cifar10.py with One-Shot Aggregation in place of dense
# connections: 12 layers of 20 channels in each block (the VoVNet paper's
# section 3.2), at about the same multiply-adds.
_base_ = 'densenet-40_1xb64_cifar10.py'
model = dict(
    backbone=dict(arch='OSA-12/20'),
    # 16 channels of the stem and what the layers of three blocks add.
    head=dict(in_channels=736))
