# maskrcnn-benchmark's 2x: 180k iterations of 16 images (8 GPUs x 2), 24.6
# epochs of the 117266 images with objects; the rate grows from a hundredth
# over 500 iterations and is divided by 10 after 120k and 160k; biases learn
# at twice the rate and do not decay. (vov-net/VoVNet-Detectron@0176f70,
# configs/vovnet/e2e_*_2x.yaml and maskrcnn_benchmark/config/defaults.py.)
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=180000, val_interval=20000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
    # By name, so that those of norms count too, which bias_lr_mult passes by.
    paramwise_cfg=dict(
        custom_keys=dict(bias=dict(lr_mult=2., decay_mult=0.))))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(
        type='MultiStepLR',
        by_epoch=False,
        milestones=[120000, 160000],
        gamma=0.1)
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
