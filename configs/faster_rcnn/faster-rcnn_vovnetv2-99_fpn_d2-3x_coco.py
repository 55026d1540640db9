_base_ = './faster-rcnn_vovnetv2-39_fpn_d2-3x_coco.py'
checkpoint = ('https://www.dropbox.com/s/'
              '1mlv31coewx8trd/vovnet99_ese_detectron2.pth?dl=1')
model = dict(
    backbone=dict(arch='V2-99', init_cfg=dict(checkpoint=checkpoint)))
