# VoVNet-57 in place of 39: ImageNet weights, stems as there.
_base_ = './refinedet_vovnet-39.py'
model = dict(backbone=dict(arch='V1-57'))
