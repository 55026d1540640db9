# default_runtime.py for classifiers: mmpretrain's default runtime, and what
# this project adds to it.
default_scope = 'mmpretrain'
custom_imports = dict(imports=['vovnet'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
    checkpoint=dict(type='vovnet.engine.WholeCheckpointHook', interval=1),
    exact_resume=dict(type='vovnet.engine.ExactResumeHook'),
    logger=dict(type='LoggerHook', interval=50))
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
]
visualizer = dict(
    type='UniversalVisualizer', vis_backends=vis_backends, name='visualizer')
