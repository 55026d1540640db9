# At 512 px, where 32 images would not fit: 540k iterations of 20 (4 GPUs x 5),
# 92 epochs of the 117266 images with objects; the rate is divided by 10 after
# 400k and 480k. With larger GPUs the paper takes the 400k iterations of 32
# images here too, for 1 AP more (Table 7).
_base_ = './refinedet_coco_400k.py'
train_cfg = dict(max_iters=540000)
param_scheduler = _base_.param_scheduler
param_scheduler[0].milestones = [400000, 480000]
auto_scale_lr = dict(base_batch_size=20)
