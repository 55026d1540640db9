# The weights' address has been reported dead; give the path of a copy.
_base_ = [
    '../_base_/models/faster-rcnn_vovnet-39_fpn_mb.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/iter_based_runtime.py', '../_base_/schedules/mb_2x.py'
]
checkpoint = ('https://dl.dropbox.com/s/'
              's7f4vyfybyc9qpr/vovnet39_statedict_norm.pth?dl=1')
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))

# Of the authors' 2x recipes only this one begins at a thousandth of the rate
# (e2e_faster_rcnn_V_39_FPN_2x.yaml, WARMUP_FACTOR).
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 0.001
