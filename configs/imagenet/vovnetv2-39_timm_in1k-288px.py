# At timm's larger size for tests: 288 / 0.95 = 303 px.
_base_ = 'vovnetv2-39_timm_in1k.py'

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 303
test_pipeline[2].crop_size = 288
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
