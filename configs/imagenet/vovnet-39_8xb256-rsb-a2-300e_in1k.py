# VoVNet-39 on ImageNet with a modern recipe: A2 of "ResNet strikes back"
# (Wightman et al., arXiv:2110.00476, Table 2) as mmpretrain's
# resnet50_8xb256-rsb-a2-300e_in1k.py has it: LAMB, 300 epochs of one cosine,
# BCE, mixup, CutMix, RandAugment, repeated augmentation. What differs: no drop
# path, which VoVNet does not have, and an exponential moving average of the
# weights, as mmpretrain's ConvNeXt has it.
_base_ = [
    '../_base_/models/vovnet-39_classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs256_rsb_a12.py',
    'mmpretrain::_base_/schedules/imagenet_bs2048_rsb.py',
    '../_base_/classification_runtime.py'
]
model = dict(
    backbone=dict(norm_cfg=dict(type='SyncBN')),
    head=dict(loss=dict(use_sigmoid=True)),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.1),
        dict(type='CutMix', alpha=1.0)
    ]))

# 8 GPUs x 256 = 2048 images; 300 epochs x 1281167 / 2048 = 188k iterations.
train_dataloader = dict(sampler=dict(type='RepeatAugSampler', shuffle=True))
train_cfg = dict(max_epochs=300)
# 5 epochs of warm-up, then the cosine.
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=295, end=300)
optim_wrapper = dict(
    paramwise_cfg=dict(bias_decay_mult=0., norm_decay_mult=0.))
# An average over about 10000 iterations, also of batch norm's statistics.
custom_hooks = [
    dict(
        type='EMAHook',
        momentum=1e-4,
        update_buffers=True,
        priority='ABOVE_NORMAL')
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
