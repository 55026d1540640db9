# VoVNet-39 on ImageNet with its authors' recipe, which is that of
# pytorch/examples (stigma0617/VoVNet.pytorch@039d9dc, README): batch 256, 90
# epochs, rate 0.1, a tenth of it every 30 epochs, weight decay 1e-4.
# They report a top-1 error of 23.23 % for the network that they released
# (model.backbone.stem='strided', residual=True); this is the paper's.
_base_ = [
    '../_base_/models/vovnet-39_classifier.py',
    'mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    '../_base_/classification_runtime.py'
]

# 8 GPUs x 32 = 256 images; 90 epochs x 1281167 / 256 = 450k iterations.
train_cfg = dict(max_epochs=90)
param_scheduler = dict(milestones=[30, 60])
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3))
