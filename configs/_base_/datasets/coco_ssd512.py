_base_ = './coco_ssd300.py'
size = 512
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[5].scale = test_pipeline[1].scale = (size, size)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
