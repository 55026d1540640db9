_base_ = './voc0712_ssd300.py'
size = 320
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[6].scale = test_pipeline[1].scale = (size, size)
train_dataloader = _base_.train_dataloader
train_dataloader.dataset.datasets[0].pipeline = train_pipeline
train_dataloader.dataset.datasets[1].pipeline = train_pipeline
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
