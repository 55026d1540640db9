# RefineDet's schedule for VOC 07+12, and VoVNet's at 320 px: 120k iterations
# of 32 images (4 GPUs x 8), 232 epochs of the 16551 images; the rate is
# divided by 10 after 80k and 100k. RefineDet itself decays by 5e-4, VoVNet by
# this. Fewer GPUs: see refinedet_coco_400k.py.
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=120000, val_interval=10000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=1e-4),
    # As Caffe does: the predictors have biases, and all of VGG has.
    paramwise_cfg=dict(bias_lr_mult=2., bias_decay_mult=0.))
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[80000, 100000],
        gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=32)
