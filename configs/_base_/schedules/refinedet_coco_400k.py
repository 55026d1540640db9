# RefineDet's schedule for COCO, and VoVNet's at 320 px: 400k iterations of 32
# images (4 GPUs x 8), 109 epochs of the 117266 images with objects; the rate
# is divided by 10 after 280k and 360k.
#
# On fewer GPUs add up gradients, for instance with one GPU x 8:
#   optim_wrapper.accumulative_counts=4
# and count iterations of one GPU's batch: max_iters, val_interval and
# milestones times 4. Batch norm sees 8 images then as it does here.
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=400000, val_interval=20000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=5e-4),
    # As Caffe does: the predictors have biases, and all of VGG has.
    paramwise_cfg=dict(bias_lr_mult=2., bias_decay_mult=0.))
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[280000, 360000],
        gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=32)
