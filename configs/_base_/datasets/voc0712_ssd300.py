# VOC 07+12 for SSD and its kin: the images are warped to a square, VOC07+12
# trainval (16551 images) is for training, VOC07 test for evaluation with the
# 11-point average precision. Batches are of an endless, shuffled sequence.
#
# Augmentation as in SSD's Caffe code, in its order, and learning from
# difficult objects as there. mmdet's transforms differ in this: channels are
# shuffled half of the time, a crop has to overlap all objects, not only one,
# by the chosen minimum, and the warp is always bilinear.
_base_ = 'mmdet::_base_/datasets/voc0712.py'
size = 300
mean = [104, 117, 123]  # BGR

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='KeepDifficultObjects'),
    dict(type='PhotoMetricDistortion'),
    dict(type='Expand', mean=mean, to_rgb=False, ratio_range=(1, 4)),
    dict(type='MinIoURandomCrop'),
    dict(type='Resize', scale=(size, size), keep_ratio=False),
    # The logarithm of an empty box's side is no number.
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(size, size), keep_ratio=False),
    # After the resizing, so that the boxes keep their size.
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
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        ignore_keys=['dataset_type'],
        datasets=[
            dict(
                type='VOCDataset',
                data_root=_base_.data_root,
                ann_file='VOC2007/ImageSets/Main/trainval.txt',
                data_prefix=dict(sub_data_root='VOC2007/'),
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=train_pipeline),
            dict(
                type='VOCDataset',
                data_root=_base_.data_root,
                ann_file='VOC2012/ImageSets/Main/trainval.txt',
                data_prefix=dict(sub_data_root='VOC2012/'),
                filter_cfg=dict(filter_empty_gt=True, min_size=32),
                pipeline=train_pipeline)
        ]))
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
