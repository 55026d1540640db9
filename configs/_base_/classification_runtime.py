# default_runtime.py for classifiers: mmpretrain's runtime, and what this
# project adds to it.
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['vovnet'], allow_failed_imports=False)

default_hooks = dict(
    checkpoint=dict(type='vovnet.engine.WholeCheckpointHook', interval=1),
    exact_resume=dict(type='vovnet.engine.ExactResumeHook'),
    logger=dict(type='LoggerHook', interval=50))
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
]
visualizer = dict(
    type='UniversalVisualizer', vis_backends=vis_backends, name='visualizer')
