_base_ = 'vovnet-39_8xb32_in1k.py'
model = dict(backbone=dict(arch='V2-19'))
