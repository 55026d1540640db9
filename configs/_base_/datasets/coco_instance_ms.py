# COCO with masks, the shorter side of the images between 640 and 800 pixels.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
train_pipeline = _base_.train_pipeline
train_pipeline[1].poly2mask = False
train_pipeline[2] = dict(
    type='RandomResize', scale=[(1333, 640), (1333, 800)], keep_ratio=True)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
