# Your own data in COCO's JSON format: copy this file, change the block below.
# docs/own_data.md walks through it.
_base_ = [
    '../_base_/models/retinanet_vovnet-27-slim_fpn_small.py',
    '../_base_/schedules/adamw_small.py', '../_base_/default_runtime.py'
]

# ------------------------------------------------------------- yours to change
data_root = 'data/my_coco/'
train_ann, train_images = 'annotations/train.json', 'train/'
val_ann, val_images = 'annotations/val.json', 'val/'
test_ann, test_images = val_ann, val_images
classes = ('cat', 'dog')  # the categories to learn, as the JSON spells them
max_epochs = 40
scale = (320, 320)  # longest and shortest side at most; larger finds smaller
batch_size = 8
# ----------------------------------------------------------------------------

num_classes = len(classes)
model = dict(bbox_head=dict(num_classes=num_classes))
train_cfg = dict(max_epochs=max_epochs, val_interval=max(1, max_epochs // 10))
default_hooks = dict(logger=dict(interval=10))
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomResize',
        scale=scale,
        ratio_range=(0.8, 1.25),
        keep_ratio=True),
    dict(type='RandomCrop', crop_size=scale),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
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
    batch_size=batch_size,
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
