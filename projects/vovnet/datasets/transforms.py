"""Transforms of the data pipelines."""
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class KeepDifficultObjects(BaseTransform):
    """Train on VOC's difficult objects too.

    Like ``use_difficult_gt``, which the VOC scripts of SSD, DSOD and RefineDet
    set in Caffe; mmdet's VOC reader ignores such objects in training. Clears
    the ignore flag of all objects: use it where the flag means 'difficult',
    not 'crowd' (COCO) or 'too small' (``bbox_min_size`` in the data set's
    ``filter_cfg``). The evaluation is unaffected.

    Modified Keys:

    - gt_ignore_flags (np.bool)
    """

    def transform(self, results: dict) -> dict:
        """Clear ``gt_ignore_flags``."""
        results['gt_ignore_flags'][:] = False
        return results
