# What every config has in common: mmdet's default runtime, and what this
# project adds to it (projects/vovnet/engine/hooks).
default_scope = 'mmdet'
custom_imports = dict(imports=['vovnet'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    # Checkpoints are whole or not there; the types are named in full so that
    # they are found whatever custom_imports says.
    checkpoint=dict(type='vovnet.engine.WholeCheckpointHook', interval=1),
    # N iterations, a stop and N more equal 2N, bit for bit on the CPU.
    exact_resume=dict(type='vovnet.engine.ExactResumeHook'),
    # A line in the log every 50 iterations, with the time to go (eta).
    logger=dict(type='LoggerHook', interval=50))

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
log_level = 'INFO'
load_from = None
resume = False

# The losses and times in a line are means over the last 50 iterations.
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

# Logs go to the terminal, to work_dir/<time>/<time>.log, as JSON to
# work_dir/<time>/vis_data/ and to TensorBoard (tensorboard --logdir work_dir).
# Weights & Biases: add dict(type='WandbVisBackend') to the list.
vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
    # dict(type='WandbVisBackend', init_kwargs=dict(project='vovnet')),
]
visualizer = dict(
    type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
