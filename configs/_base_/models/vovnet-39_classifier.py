# VoVNet-39, its last stage averaged over the picture, and one linear layer.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='VoVNet', arch='V1-39', out_indices=(3, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=1024,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5)))
