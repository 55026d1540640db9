# RefineDet's authors: 81.8 mAP on VOC07 test, with batches of 32 (4 GPUs x 8)
# at this size too.
_base_ = [
    '../_base_/models/refinedet_vgg16.py',
    '../_base_/datasets/voc0712_ssd512.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/refinedet_voc_120k.py',
    '../_base_/tta/refinedet512.py'
]
train_dataloader = dict(batch_size=8)
model = dict(bbox_head=dict(num_classes=20))
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
