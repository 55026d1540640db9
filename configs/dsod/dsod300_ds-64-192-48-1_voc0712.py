# DSOD300 as published: 77.7 mAP, from scratch.
_base_ = [
    '../_base_/models/dsod300_ds-64-192-48-1.py',
    '../_base_/datasets/voc0712_ssd300.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/dsod_100k.py'
]
