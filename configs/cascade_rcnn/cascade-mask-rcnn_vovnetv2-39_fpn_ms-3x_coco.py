# Cascade Mask R-CNN with mmdet's recipe, from timm's ImageNet weights
# (Apache-2.0), whose eSE sits in the last block of each stage.
# ms-3x: shorter side 640 to 800; 12 epochs of the images thrice, 12 x 3 x
# 117266 / 16 (8 GPUs x 2) = 263848 iterations, the rate divided by 10 after
# epochs 9 and 11.
_base_ = [
    '../_base_/models/cascade-mask-rcnn_vovnetv2-39_fpn.py',
    '../_base_/datasets/coco_instance_ms.py',
    '../_base_/default_runtime.py', 'mmdet::_base_/schedules/schedule_1x.py'
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        times=3,
        dataset=_base_.train_dataloader.dataset))
param_scheduler = _base_.param_scheduler
param_scheduler[1].milestones = [9, 11]
