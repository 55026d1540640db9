"""Checks of the data that a config names, before anything is built."""
from collections.abc import Sequence

from .detection_data import check_detection_data

__all__ = ['check_datasets']


def check_datasets(cfg: dict,
                   splits: Sequence[str] = ('train', 'val', 'test')
                   ) -> list[str]:
    """Check data sets, their images and the model's numbers of classes.

    Data sets of other types than mmdet's COCO and VOC, and mmpretrain's
    folders, label files and CIFAR are not checked, nor is data that is not on
    a local disk. No image is opened.

    Args:
        cfg: A complete config.
        splits: The data loaders to check.

    Returns:
        Warnings, one line each, about what is odd but works.

    Raises:
        UserError: If a file is missing or broken, a split is empty, or
            classes, annotations and model do not agree.
    """
    if cfg.get('default_scope') == 'mmpretrain':
        from .classification_data import check_classification_data as check
    else:
        check = check_detection_data
    return list(dict.fromkeys(check(cfg, splits)))  # each warning once
