# ResNet-50 in RefineDet, by the recipe of ResNet-101.
_base_ = './refinedet_r101.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='RefineDetResNet50',
        out_indices=(1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='caffe',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='open-mmlab://detectron2/resnet50_caffe')))
