# The VoVNet paper's lightweight detector: 74.8 mAP (Table 2), from scratch.
_base_ = [
    '../_base_/models/dsod300_vovnet-27-slim.py',
    '../_base_/datasets/voc0712_ssd300.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/dsod_100k.py'
]
