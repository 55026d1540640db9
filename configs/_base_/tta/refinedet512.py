# As refinedet320.py, at 0.5 to 2.25 times 512 px.
_base_ = './refinedet320.py'
tta_scales = [256, 384, 512, 640, 768, 896, 1024, 1152]
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type='Resize', scale=(s, s), keep_ratio=False) for s in tta_scales
]
