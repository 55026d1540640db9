"""Caffe's prior boxes where mmdet's ``SSDAnchorGenerator`` cannot give them.

Source: ``prior_box_layer.cpp`` of sfzhang15/RefineDet@52b6fe2 (read, not
copied).
"""
from collections.abc import Sequence

import torch
from mmdet.models.task_modules import SSDAnchorGenerator
from mmdet.registry import TASK_UTILS
from torch import Tensor


@TASK_UTILS.register_module()
class PriorBoxGenerator(SSDAnchorGenerator):
    """SSD's priors with given sizes, of which the larger may be missing.

    Each cell of a level has a square of the level's least size, one of the
    geometric mean of both sizes unless there is no larger one, and a wide and
    a high box for each ratio.

    Args:
        strides (Sequence[float]): Distance of the cells of each level, px.
        ratios (Sequence[Sequence[float]]): Ratios above 1 of each level.
        min_sizes (Sequence[float]): Least size of each level, px.
        max_sizes (Sequence[float | None]): Larger size of each level, px.
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
