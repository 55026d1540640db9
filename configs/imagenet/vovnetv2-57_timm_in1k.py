# vovnetv2-39_timm_in1k.py for timm's ese_vovnet57b.ra4_e3600_r256_in1k, which
# was trained on other pixels and tests at 256 / 0.95 = 269 px.
_base_ = 'vovnetv2-39_timm_in1k.py'
model = dict(backbone=dict(arch='V2-57'))
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 269
test_pipeline[2].crop_size = 256
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
