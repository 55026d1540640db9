# detectron2's 3x: 270k iterations of 16 images (8 GPUs x 2), 36.8 epochs of
# the 117266 images with objects; the rate grows from a thousandth over 1000
# iterations and is divided by 10 after 210k and 250k.
# (youngwanLEE/vovnet-detectron2@b81c813, configs/*_3x.yaml.)
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=270000, val_interval=30000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
    # Of norms only FCOS's head has some that learn.
    paramwise_cfg=dict(norm_decay_mult=0.))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.001,
        by_epoch=False,
        begin=0,
        end=1000),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[210000, 250000],
        gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
