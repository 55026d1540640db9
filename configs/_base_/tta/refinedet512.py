# Multi-scale testing: tools/test.py --tta. The scales, 0.5 to 2.25 times
# 512 px, and flips are those of RefineDet's authors (test.py of
# sfzhang15/RefineDet@52b6fe2). They also see each image at a second aspect
# ratio, take only small objects from enlarged images, and average overlapping
# boxes by vote; here NMS chooses among them.
tta_scales = [256, 384, 512, 640, 768, 896, 1024, 1152]
tta_model = dict(
    type='DetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.45), max_per_img=500))
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale=(s, s), keep_ratio=False)
            for s in tta_scales
        ], [
            dict(type='RandomFlip', prob=0.0),
            dict(type='RandomFlip', prob=1.0)
        ], [dict(type='LoadAnnotations', with_bbox=True)],
                    [
                        dict(
                            type='PackDetInputs',
                            meta_keys=('img_id', 'img_path', 'ori_shape',
                                       'img_shape', 'scale_factor', 'flip',
                                       'flip_direction'))
                    ]])
]
