# DSOD300 on VoVNet-27-slim, as far as the VoVNet paper tells it: the last
# three stages are the first three scales, three more are made of them, and
# all else is DSOD's (szq0214/DSOD@bbb6f0f, DSOD300_pascal.py). The paper's
# parameters (5.9 M) and multiply-adds (5.6 G) speak for this reading.
#
# Maps of 37, 18, 9, 5, 3 and 2 px: 8108 priors. The last scale has DSOD's
# step of 300 px on four cells: three of them have their center outside of the
# image. As in Caffe their priors are matched and learn to be background, and
# what they detect is clipped to nothing or next to nothing.
in_channels = [256, 384, 512]
channels = [256, 384, 512, 256, 256, 256]
caffe_xavier = [
    dict(type='Caffe2Xavier', layer='Conv2d'),
    dict(type='Constant', val=1, layer='_BatchNorm')
]
model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[104, 117, 123],  # BGR
        std=[1, 1, 1],
        bgr_to_rgb=False),
    backbone=dict(
        type='VoVNet',
        arch='V1-27-slim',
        out_indices=(1, 2, 3),
        init_cfg=caffe_xavier),
    neck=dict(
        type='DSODNeck', in_channels=in_channels, out_channels=channels),
    bbox_head=dict(
        type='DSODHead',
        num_classes=20,
        in_channels=channels,
        anchor_generator=dict(
            type='SSDAnchorGenerator',
            scale_major=False,
            input_size=300,
            basesize_ratio_range=(0.2, 0.9),  # of VOC: 30 to 315 px
            strides=[8, 16, 32, 64, 100, 300],
            ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]]),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])),
    train_cfg=dict(
        assigner=dict(
            type='BipartiteMaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5),
        sampler=dict(type='PseudoSampler'),
        smoothl1_beta=1.,
        allowed_border=-1,
        pos_weight=-1,
        neg_pos_ratio=3),
    test_cfg=dict(
        score_thr=0.01,
        nms_pre=400,  # of each class
        nms=dict(type='nms', iou_threshold=0.45),
        min_bbox_size=0,
        max_per_img=200))
