_base_ = 'vovnet-39_8xb256-rsb-a2-300e_in1k.py'
model = dict(backbone=dict(arch='V1-57'))
