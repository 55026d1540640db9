# The authors published no such Mask R-CNN; this is their Faster R-CNN's
# backbone and pyramid with the recipe of their others.
_base_ = './mask-rcnn_vovnetv2-19_fpnlite_d2-3x_coco.py'
checkpoint = ('https://www.dropbox.com/s/'
              '9awvl0mxye3nqz1/vovnet19_ese_dw_detectron2.pth?dl=1')
model = dict(
    backbone=dict(arch='V2-19-dw', init_cfg=dict(checkpoint=checkpoint)))
