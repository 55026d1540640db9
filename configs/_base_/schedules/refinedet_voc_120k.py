# RefineDet's schedule for VOC 07+12, and VoVNet's at 320 px: 120k iterations
# of 32 images (4 GPUs x 8), 232 epochs of the 16551 images; the rate is
# divided by 10 after 80k and 100k. RefineDet itself decays by 5e-4, VoVNet by
# this.
_base_ = './refinedet_coco_400k.py'
train_cfg = dict(max_iters=120000, val_interval=10000)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
param_scheduler = _base_.param_scheduler
param_scheduler[0].milestones = [80000, 100000]
