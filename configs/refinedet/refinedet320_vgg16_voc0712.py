# RefineDet's authors: 80.0 mAP on VOC07 test.
_base_ = [
    '../_base_/models/refinedet_vgg16.py',
    '../_base_/datasets/voc0712_ssd320.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/refinedet_voc_120k.py',
    '../_base_/tta/refinedet320.py'
]
train_dataloader = dict(batch_size=8)
model = dict(bbox_head=dict(num_classes=20))
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
