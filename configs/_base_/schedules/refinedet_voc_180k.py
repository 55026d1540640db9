# VoVNet's schedule for VOC 07+12 at 512 px: 180k iterations of 20 images (4
# GPUs x 5), 218 epochs of the 16551 images; the rate is divided by 10 after
# 130k and 160k.
_base_ = './refinedet_coco_400k.py'
train_cfg = dict(max_iters=180000, val_interval=10000)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
param_scheduler = _base_.param_scheduler
param_scheduler[0].milestones = [130000, 160000]
auto_scale_lr = dict(base_batch_size=20)
