# COCO for SSD and its kin: train2017 (117266 images with objects) for
# training, val2017 for evaluation; all else as in voc0712_ssd300.py, but for
# the crowds, which stay out of training.
_base_ = 'mmdet::_base_/datasets/coco_detection.py'
size = 300
mean = [104, 117, 123]  # BGR

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PhotoMetricDistortion'),
    dict(type='Expand', mean=mean, to_rgb=False, ratio_range=(1, 4)),
    dict(type='MinIoURandomCrop'),
    dict(type='Resize', scale=(size, size), keep_ratio=False),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(size, size), keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                   'scale_factor'))
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    sampler=dict(_delete_=True, type='InfiniteSampler'),
    batch_sampler=None,
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
