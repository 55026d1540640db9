# Fine-tuning on a small data set in COCO's JSON format (some hundreds of
# images, one GPU): copy this file, change the block below. docs/own_data.md
# walks through a file of this kind.
#
# The detector starts from ImageNet weights, or better from one that has been
# trained on COCO (docs/model_zoo.md): all of it but the two layers as wide as
# the number of classes. Few images support few changes: the stem and stage 2
# stay as they are, so do the statistics of batch norm, which 4 images at a
# time would spoil, and the rate is half of what COCO's 0.02 for 16 images
# would be for 4.
_base_ = [
    '../_base_/models/faster-rcnn_vovnetv2-39_fpn_d2.py',
    '../_base_/default_runtime.py'
]

# ------------------------------------------------------------- yours to change
data_root = 'data/my_coco/'
train_ann, train_images = 'annotations/train.json', 'train/'
val_ann, val_images = 'annotations/val.json', 'val/'
test_ann, test_images = val_ann, val_images
classes = ('cat', 'dog')  # the categories to learn, as the JSON spells them
max_epochs = 24  # a tenth of the rate after 16, a hundredth after 22
scales = [(1333, side) for side in (480, 560, 640, 720, 800)]
batch_size = 4
# A detector of COCO, such as one from tools/model_converters/
# detectron2_to_mmdet.py, or None for ImageNet weights.
load_from = None
# ----------------------------------------------------------------------------

normalize = dict(
    mean=[103.53, 116.28, 123.675], std=[1., 1., 1.], bgr_to_rgb=False)
model = dict(
    backbone=dict(
        frozen_stages=1,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='timm://ese_vovnet39b.ra_in1k',
            # timm's weights saw RGB and another std; see docs/weights.md.
            data_preprocessor=normalize)),
    roi_head=dict(bbox_head=dict(num_classes=len(classes))))

train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.0025, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=35))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        milestones=[max_epochs * 2 // 3, max_epochs * 11 // 12],
        gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(save_best='coco/bbox_mAP', max_keep_ckpts=1))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomChoiceResize', scales=scales, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scales[-1], keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor'))
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
        ann_file=train_ann,
        data_prefix=dict(img=train_images)))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=test_pipeline,
        ann_file=val_ann,
        data_prefix=dict(img=val_images)))
test_dataloader = dict(
    val_dataloader,
    dataset=dict(
        val_dataloader['dataset'],
        ann_file=test_ann,
        data_prefix=dict(img=test_images)))
val_evaluator = dict(
    type='CocoMetric', ann_file=f'{data_root}/{val_ann}', metric='bbox')
test_evaluator = dict(
    type='CocoMetric', ann_file=f'{data_root}/{test_ann}', metric='bbox')
