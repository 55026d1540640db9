# DenseNet-40 (k=12) on CIFAR-10, the network that the VoVNet paper's section
# 3.2 starts from. The paper gives no recipe; this is DenseNet's (Huang et al.,
# arXiv:1608.06993, section 4.2): batch 64, 300 epochs, rate 0.1, a tenth of it
# after 150 and again after 225, Nesterov momentum, weight decay 1e-4, mirrored
# and shifted images (without a validation split). DenseNet drops nothing out
# on augmented data.
_base_ = [
    '../_base_/models/densenet-40_classifier.py',
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    '../_base_/classification_runtime.py'
]

# 1 GPU x 64 = 64 images, which batch norm sees together. The data are in
# data/cifar10; with download=True mmpretrain fetches them.
train_dataloader = dict(batch_size=64, dataset=dict(download=False))
val_dataloader = dict(dataset=dict(download=False))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(nesterov=True))
param_scheduler = dict(milestones=[150, 225])
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(base_batch_size=64)
