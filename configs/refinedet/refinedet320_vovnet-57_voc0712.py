# Not in the papers: the recipe of VoVNet-39.
_base_ = [
    '../_base_/models/refinedet_vovnet-57.py',
    '../_base_/datasets/voc0712_ssd320.py', '../_base_/iter_based_runtime.py',
    '../_base_/schedules/refinedet_voc_120k.py',
    '../_base_/tta/refinedet320.py'
]
train_dataloader = dict(batch_size=8)
# Stricter anchors, which RefineDet's author advised for stability.
model = dict(
    bbox_head=dict(num_classes=20),
    train_cfg=dict(arm=dict(assigner=dict(pos_iou_thr=0.7, neg_iou_thr=0.3))))
