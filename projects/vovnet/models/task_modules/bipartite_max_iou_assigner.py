"""Caffe's matching of priors and objects, as in SSD, DSOD and RefineDet.

Source: ``MatchBBox`` with ``PER_PREDICTION`` in ``bbox_util.cpp`` of
sfzhang15/RefineDet@52b6fe2, as in weiliu89/caffe's SSD. Each object gets its
own prior; with mmdet's ``MaxIoUAssigner(gt_max_assign_all=False)`` the last of
several objects takes a best prior that they share. An object that overlaps no
prior gets none; mmdet with ``min_pos_iou=0`` gives it the first one.
"""
import torch
from mmdet.models.task_modules import AssignResult, MaxIoUAssigner
from mmdet.registry import TASK_UTILS
from torch import Tensor

# Caffe ignores smaller overlaps.
MIN_OVERLAP = 1e-6


@TASK_UTILS.register_module()
class BipartiteMaxIoUAssigner(MaxIoUAssigner):
    """Bipartite matching, then matching by overlap.

    First the pair of object and prior with the largest overlap is matched and
    set aside, until no pair is left (ties: the first prior, then the first
    object). Then each remaining prior takes the object that it overlaps most
    if the overlap is at least ``pos_iou_thr``. Of the others, priors whose
    largest overlap is below ``neg_iou_thr`` are background.

    Args:
        pos_iou_thr: Least overlap in the second step.
        neg_iou_thr: Background priors overlap all objects less.
        **kwargs: Others of mmdet's ``MaxIoUAssigner``, but not those for low
            quality matches.
    """

    def __init__(self, pos_iou_thr: float = 0.5, neg_iou_thr: float = 0.5,
                 **kwargs) -> None:
        super().__init__(pos_iou_thr, neg_iou_thr, match_low_quality=False,
                         **kwargs)

    def assign_wrt_overlaps(self, overlaps: Tensor,
                            gt_labels: Tensor) -> AssignResult:
        """Match by the overlaps (k, n) of k objects and n priors.

        Returns:
            ``gt_inds`` (n, ) are 1-based indices of objects, 0 for background
            and -1 for neither.
        """
        result = super().assign_wrt_overlaps(overlaps, gt_labels)
        if not overlaps.numel():
            return result
        left = overlaps.clone()
        objects = torch.arange(len(overlaps), device=overlaps.device)
        # A pair that is the best of its row and its column would be reached by
        # taking the largest overlap again and again. Take all such at once.
        while True:
            overlap, prior = left.max(dim=1)
            mutual = left.argmax(dim=0)[prior] == objects
            gts = objects[mutual & (overlap > MIN_OVERLAP)]
            if not len(gts):
                return result
            priors = prior[gts]
            result.gt_inds[priors] = gts + 1
            result.labels[priors] = gt_labels[gts]
            left[gts] = 0
            left[:, priors] = 0
