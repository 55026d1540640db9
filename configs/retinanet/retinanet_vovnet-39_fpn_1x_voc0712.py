# VOC 07+12: 16551 images, repeated 3 times; 4 such epochs are 12 of the data,
# 4 x 3 x 16551 / 16 (8 GPUs x 2) = 12413 iterations.
_base_ = [
    '../_base_/models/retinanet_vovnet-39_fpn.py',
    'mmdet::_base_/datasets/voc0712.py', '../_base_/default_runtime.py'
]
model = dict(bbox_head=dict(num_classes=20))

max_epochs = 4
train_cfg = dict(
    type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        begin=0,
        end=max_epochs,
        by_epoch=True,
        milestones=[3],
        gamma=0.1)
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001))
auto_scale_lr = dict(enable=False, base_batch_size=16)
