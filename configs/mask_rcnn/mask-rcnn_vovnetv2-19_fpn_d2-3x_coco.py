_base_ = './mask-rcnn_vovnetv2-39_fpn_d2-3x_coco.py'
checkpoint = ('https://www.dropbox.com/s/'
              'rptgw6stppbiw1u/vovnet19_ese_detectron2.pth?dl=1')
model = dict(
    backbone=dict(arch='V2-19', init_cfg=dict(checkpoint=checkpoint)))
