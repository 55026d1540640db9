"""Caffe's matching of priors and objects, as SSD, DSOD and RefineDet use it.

Source: ``MatchBBox`` with ``PER_PREDICTION`` in
sfzhang15/RefineDet@52b6fe2, ``src/caffe/util/bbox_util.cpp`` (read, not
copied; the same function as in weiliu89/caffe's SSD). It differs from mmdet's
``MaxIoUAssigner(gt_max_assign_all=False)`` where several objects have the
same best prior: there the last one gets it and the others may get none, here
each object gets a prior of its own. An object that overlaps no prior gets
none, where mmdet with ``min_pos_iou=0`` gives it the first one.
"""
import torch
from mmdet.models.task_modules import AssignResult, MaxIoUAssigner
from mmdet.registry import TASK_UTILS
from torch import Tensor

# Caffe does not regard smaller overlaps at all.
MIN_OVERLAP = 1e-6


@TASK_UTILS.register_module()
class BipartiteMaxIoUAssigner(MaxIoUAssigner):
    """One prior for each object, then all that overlap well enough.

    First the pair of object and prior with the largest overlap is matched
    and both are set aside, until no pair is left (ties: the first prior, of
    its objects the first). Then each prior that is left takes the object it
    overlaps most if that is at least ``pos_iou_thr``. Of the rest, priors
    whose largest overlap is below ``neg_iou_thr`` are background.

    Args:
        pos_iou_thr (float): Least overlap of a positive prior, apart from the
            one that every object gets.
        neg_iou_thr (float): Background priors overlap all objects less.
        **kwargs: As ``MaxIoUAssigner`` takes them, but those of its own way
            to give each object a prior (``match_low_quality``,
            ``min_pos_iou``, ``gt_max_assign_all``).
    """

    def __init__(self, pos_iou_thr: float = 0.5, neg_iou_thr: float = 0.5,
                 **kwargs) -> None:
        super().__init__(pos_iou_thr, neg_iou_thr, match_low_quality=False,
                         **kwargs)

    def assign_wrt_overlaps(self, overlaps: Tensor,
                            gt_labels: Tensor) -> AssignResult:
        """Match by overlaps.

        Args:
            overlaps (Tensor): IoU of k objects and n priors, (k, n).
            gt_labels (Tensor): Classes of the objects, (k, ).

        Returns:
            AssignResult: ``gt_inds`` (n, ) are 1-based indices of objects, 0
            for background and -1 for priors that are neither.
        """
        result = super().assign_wrt_overlaps(overlaps, gt_labels)
        if not overlaps.numel():
            return result
        left = overlaps.clone()
        objects = torch.arange(len(overlaps), device=overlaps.device)
        # A pair that is best in its row and its column is one that taking the
        # largest overlap again and again would come to; there may be many.
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
