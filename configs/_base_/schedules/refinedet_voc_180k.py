# VoVNet's schedule for VOC 07+12 at 512 px: 180k iterations of 20 images (4
# GPUs x 5), 218 epochs of the 16551 images; the rate is divided by 10 after
# 130k and 160k. Fewer GPUs: see refinedet_coco_400k.py.
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=180000, val_interval=10000)
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
        milestones=[130000, 160000],
        gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=20)
