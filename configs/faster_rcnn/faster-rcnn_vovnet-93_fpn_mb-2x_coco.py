_base_ = './faster-rcnn_vovnet-39_fpn_mb-2x_coco.py'
checkpoint = ('https://dl.dropbox.com/s/'
              'qtly316zv1isn0t/vovnet93_statedict_norm.pth.tar?dl=1')
model = dict(
    backbone=dict(arch='V1-93', init_cfg=dict(checkpoint=checkpoint)))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 0.01
