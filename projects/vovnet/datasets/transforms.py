"""Transforms of the data pipelines.

Source: ``use_difficult_gt`` of Caffe's ``MultiBoxLossParameter``, True in
the VOC scripts of SSD, DSOD (szq0214/DSOD@bbb6f0f) and RefineDet
(sfzhang15/RefineDet@52b6fe2). mmdet's VOC reader (``xml_style.py``) takes
such objects for regions to ignore, in training as in the test.
"""
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class KeepDifficultObjects(BaseTransform):
    """Learn from VOC's difficult objects too. For training pipelines only.

    Takes back the ignore flag of all objects: use it where the flag says
    'difficult', not where it says 'crowd' (COCO) or 'too small' (a
    ``bbox_min_size`` in the data set's ``filter_cfg``). The evaluation reads
    the flags of the data set, which stay.

    Modified Keys:

    - gt_ignore_flags (np.bool)
    """

    def transform(self, results: dict) -> dict:
        """Clear ``gt_ignore_flags`` (k, )."""
        results['gt_ignore_flags'][:] = False
        return results
