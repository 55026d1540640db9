# As coco_detection_d2.py, with masks, which stay polygons in training.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
sizes = [(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768),
         (1333, 800)]
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[0].imdecode_backend = 'pillow'
test_pipeline[0].imdecode_backend = 'pillow'
train_pipeline[1].poly2mask = False
train_pipeline[2] = dict(
    type='RandomChoiceResize', scales=sizes, keep_ratio=True, backend='pillow')
test_pipeline[1].backend = 'pillow'
train_dataloader = dict(
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
