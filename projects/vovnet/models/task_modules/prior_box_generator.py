"""Caffe's prior boxes, for levels with a single size.

Source: ``prior_box_layer.cpp`` of sfzhang15/RefineDet@52b6fe2.
"""
from collections.abc import Sequence

import torch
from mmdet.models.task_modules import SSDAnchorGenerator
from mmdet.registry import TASK_UTILS
from torch import Tensor


@TASK_UTILS.register_module()
class PriorBoxGenerator(SSDAnchorGenerator):
    """SSD's priors with given sizes, of which the larger may be missing.

    Each cell has a square of the smaller size, one of both sizes' geometric
    mean if there is a larger size, and a wide and a high box for each ratio.

    Args:
        strides: Distance of the cells of each level, px.
        ratios: Ratios above 1 of each level.
        min_sizes: Smaller size of each level, px.
        max_sizes: Larger size of each level, px, or None.
    """

    def __init__(self, strides: Sequence[float],
                 ratios: Sequence[Sequence[float]],
                 min_sizes: Sequence[float],
                 max_sizes: Sequence[float | None]) -> None:
        self.max_sizes = max_sizes
        super().__init__(
            strides, ratios, min_sizes,
            [high or low for low, high in zip(min_sizes, max_sizes)],
            scale_major=False)

    def gen_base_anchors(self) -> list[Tensor]:
        """Make the priors of one cell of each level, (n, 4)."""
        return [
            priors if high else torch.cat((priors[:1], priors[2:]))
            for priors, high in zip(super().gen_base_anchors(),
                                    self.max_sizes)]
