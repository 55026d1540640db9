# DSOD with VoVNet-27-slim on the generated shapes, small enough to be trained
# from scratch on a CPU in minutes:
#   python tools/dataset_converters/make_shapes.py data/shapes \
#       --num-train 1400 --num-val 200
#   python tools/train.py configs/dsod/dsod160_vovnet-27-slim_shapes.py
# Neck and head are those of dsod300_vovnet-27-slim_voc0712.py, with priors for
# smaller images.
_base_ = [
    '../_base_/models/dsod300_vovnet-27-slim.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/adamw_small.py', '../_base_/default_runtime.py'
]
model = dict(
    bbox_head=dict(
        num_classes=5,
        anchor_generator=dict(
            _delete_=True,
            type='SSDAnchorGenerator',
            scale_major=False,
            input_size=160,
            # VOC's sizes for 300 px, at 160: shapes are of 20 to 90 px.
            min_sizes=[16, 32, 59, 86, 113, 140],
            max_sizes=[32, 59, 86, 113, 140, 167],
            # Maps of 20, 10, 5, 3, 2 and 1 px.
            strides=[8, 16, 32, 54, 80, 160],
            ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]])))

# 4 epochs x 1400 images / 8 = 700 iterations.
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = max_epochs
default_hooks = dict(logger=dict(interval=20))
# The order in which a CPU computes convolutions fastest.
custom_hooks = [dict(type='vovnet.engine.ChannelsLastHook')]
randomness = dict(seed=0)
