# At timm's larger size for tests: 320 px, nothing cut off the short side.
_base_ = 'vovnetv2-57_timm_in1k.py'

test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = 320
test_pipeline[2].crop_size = 320
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
