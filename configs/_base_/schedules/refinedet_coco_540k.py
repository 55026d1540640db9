# At 512 px, where 32 images would not fit: 540k iterations of 20 (4 GPUs x 5),
# 92 epochs of the 117266 images with objects; the rate is divided by 10 after
# 400k and 480k. With larger GPUs the paper takes the 400k iterations of 32
# images here too, for 1 AP more (Table 7).
# Fewer GPUs: see refinedet_coco_400k.py.
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=540000, val_interval=20000)
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
        milestones=[400000, 480000],
        gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=20)
