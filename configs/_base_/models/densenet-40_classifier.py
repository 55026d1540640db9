# DenseNet-40 (k=12) of the CIFAR-10 study.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARNet', arch='DenseNet-40'),
    neck=dict(type='GlobalAveragePooling'),
    # 16 channels of the stem and 3 x 12 layers of 12.
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=448,
        loss=dict(type='CrossEntropyLoss')))
