# DSOD's schedule for VOC 07+12, which the VoVNet paper uses too: 100k
# iterations of 128 images (8 GPUs x 16), about 773 epochs of the 16551 images,
# at a rate of 0.1 from the first iteration on, divided by 10 after 20k, 40k,
# 60k and 80k. DSOD had 4 images at a time on each of 8 GPUs and added up 4
# such gradients; its authors report 77.7 mAP for batch norm over 4 images and
# 78.9 for 12.
#
# On fewer GPUs add up gradients too, for instance with two GPUs x 16:
#   optim_wrapper.accumulative_counts=4
# and count iterations of one GPU's batch: max_iters, val_interval, milestones
# and the checkpoint hook's interval times 4. A lower rate is the alternative:
# --auto-scale-lr.
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=100000, val_interval=5000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    # The predictors' norms do not decay, the others do.
    paramwise_cfg=dict(custom_keys={
        f'{kind}_convs.{i}.0.bn': dict(decay_mult=0.)
        for kind in ('cls', 'reg') for i in range(6)
    }))
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[20000, 40000, 60000, 80000],
        gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=128)
