# timm's ese_vovnet39b.ra_in1k on ImageNet's validation images, prepared as
# timm prepares them: the short side to 224 / 0.875 = 256 px with Pillow's
# bicubic filter, the square in the middle; the camera's orientation tag is not
# looked at. For testing only; the weights, with their classifier, by
#   python tools/model_converters/vovnet_to_mmengine.py \
#       timm://ese_vovnet39b.ra_in1k ese_vovnet39b.pth --to mmpretrain
_base_ = [
    '../_base_/models/vovnet-39_classifier.py',
    '../_base_/classification_runtime.py'
]
model = dict(backbone=dict(arch='V2-39', ese='last'))
data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

test_pipeline = [
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
    dict(
        type='ResizeEdge',
        scale=256,
        edge='short',
        backend='pillow',
        interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs')
]
test_dataloader = dict(
    batch_size=64,
    num_workers=5,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ImageNet',
        data_root='data/imagenet',
        split='val',
        pipeline=test_pipeline))
test_evaluator = dict(type='Accuracy', topk=(1, 5))
test_cfg = dict()
