# RTMDet with mmdet's recipe of its large model, which has about as many
# parameters: 300 epochs x 117266 images / 256 (8 GPUs x 32) = 137421
# iterations of AdamW, the last 20 epochs without mosaic and mix-up.
# timm's weights (Apache-2.0) saw RGB; RTMDet reads BGR, the same mean and std
# otherwise, which goes into the first convolution.
_base_ = 'mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py'
custom_imports = dict(imports=['vovnet'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='VoVNet',
        arch='V2-39',
        ese='last',
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='timm://ese_vovnet39b.ra_in1k',
            data_preprocessor=dict(
                mean=[103.53, 116.28, 123.675],
                std=[57.375, 57.12, 58.395],
                bgr_to_rgb=False))),
    neck=dict(in_channels=[512, 768, 1024]))

auto_scale_lr = dict(base_batch_size=256)

# ../_base_/default_runtime.py, which mmdet's config already has a base for.
default_hooks = dict(
    checkpoint=dict(type='vovnet.engine.WholeCheckpointHook'),
    exact_resume=dict(type='vovnet.engine.ExactResumeHook'))
vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend')
]
visualizer = dict(vis_backends=vis_backends)
