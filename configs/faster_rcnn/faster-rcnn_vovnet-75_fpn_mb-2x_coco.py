_base_ = './faster-rcnn_vovnet-39_fpn_mb-2x_coco.py'
checkpoint = ('https://dl.dropbox.com/s/'
              've1h1ol2ge7yfta/vovnet75_statedict_norm.pth.tar?dl=1')
model = dict(
    backbone=dict(arch='V1-75', init_cfg=dict(checkpoint=checkpoint)))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 0.01
