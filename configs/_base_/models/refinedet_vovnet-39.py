# RefineDet with VoVNet-39, as VoVNet's author built it in Caffe: the paper's
# pooled stem, stages 3, 4 and 5 and res6 as sources, batch norm on the batch's
# statistics everywhere, a residual block before every pair of predictors.
#
# The paper starts from ImageNet weights. Those of the pooled stem were never
# released: train them, or take the released network, whose stem and blocks
# differ, and whose costs are a little lower:
#   --cfg-options model.backbone.init_cfg.type=Pretrained \
#                 model.backbone.init_cfg.checkpoint=FILE \
#                 model.backbone.stem=strided model.backbone.residual=True
# or, in a config of your own,
#   _base_ = 'refinedet320_vovnet-39_coco.py'
#   init_cfg = dict(type='Pretrained', checkpoint='FILE')
#   model = dict(backbone=dict(
#       init_cfg=init_cfg, stem='strided', residual=True))
# docs/weights.md says what FILE can be.
in_channels = (512, 768, 1024)
multibox = dict(
    assigner=dict(
        type='BipartiteMaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5),
    sampler=dict(type='PseudoSampler'),
    smoothl1_beta=1.0,
    neg_pos_ratio=3,
    allowed_border=-1,
    pos_weight=-1)
model = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[104, 117, 123],  # BGR
        std=[1, 1, 1],
        bgr_to_rgb=False,
        # Maps must halve from one to the next.
        pad_size_divisor=64),
    backbone=dict(
        type='VoVNet',
        arch='V1-39',
        out_indices=(1, 2, 3)),
    neck=dict(
        type='RefineDetNeck',
        in_channels=in_channels,
        extra_channels=512,
        out_channels=256),
    bbox_head=dict(
        type='RefineDetHead',
        num_classes=80,
        in_channels=(*in_channels, 512),
        feat_channels=256,
        inter_planes=256,
        # Squares of 32 to 256 px, and boxes of the same area that are twice
        # as wide or as high.
        anchor_generator=dict(
            type='AnchorGenerator',
            strides=[8, 16, 32, 64],
            ratios=[1.0, 0.5, 2.0],
            scales=[4.0],
            center_offset=0.5),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder',
            target_means=[0, 0, 0, 0],
            target_stds=[0.1, 0.1, 0.2, 0.2]),
        objectness_thr=0.01),
    train_cfg=dict(arm=multibox, odm=multibox),
    # The authors' results on COCO come with soft-NMS on top, an option here:
    #   --cfg-options model.test_cfg.nms.type=soft_nms \
    #                 model.test_cfg.nms.iou_threshold=0.3 \
    #                 model.test_cfg.nms.method=linear \
    #                 model.test_cfg.nms.min_score=0.01
    test_cfg=dict(
        score_thr=0.01,
        nms_pre=1000,  # of each class
        nms=dict(type='nms', iou_threshold=0.45),
        min_bbox_size=0,
        max_per_img=500))
