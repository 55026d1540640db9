# vovnetv2-39_timm_in1k.py for timm's ese_vovnet19b_dw.ra_in1k.
_base_ = 'vovnetv2-39_timm_in1k.py'
model = dict(backbone=dict(arch='V2-19-dw'))
