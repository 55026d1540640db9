# COCO as detectron2 prepares it: images decoded and resized by Pillow, whose
# bilinear filter, unlike OpenCV's, averages when it makes images smaller; in
# training one of six sizes of the shorter side, 800 in the test, at most 1333
# for the longer one (detectron2@02b5c4e, config/defaults.py and
# data/dataset_mapper.py). Iterations are counted, so that the sampler never
# ends.
_base_ = 'mmdet::_base_/datasets/coco_detection.py'
sizes = [(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768),
         (1333, 800)]
train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[0].imdecode_backend = 'pillow'
test_pipeline[0].imdecode_backend = 'pillow'
train_pipeline[2] = dict(
    type='RandomChoiceResize', scales=sizes, keep_ratio=True, backend='pillow')
test_pipeline[1].backend = 'pillow'
train_dataloader = dict(
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
