_base_ = './faster-rcnn_vovnetv2-19_fpnlite_d2-3x_coco.py'
checkpoint = ('https://www.dropbox.com/s/'
              '8h5ybmi4ftbcom0/vovnet19_ese_slim_detectron2.pth?dl=1')
model = dict(
    backbone=dict(arch='V2-19-slim', init_cfg=dict(checkpoint=checkpoint)),
    neck=dict(in_channels=[112, 256, 384, 512]))
