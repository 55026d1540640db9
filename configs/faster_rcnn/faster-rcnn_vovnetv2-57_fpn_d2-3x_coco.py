_base_ = './faster-rcnn_vovnetv2-39_fpn_d2-3x_coco.py'
checkpoint = ('https://www.dropbox.com/s/'
              '8xl0cb3jj51f45a/vovnet57_ese_detectron2.pth?dl=1')
model = dict(
    backbone=dict(arch='V2-57', init_cfg=dict(checkpoint=checkpoint)))
