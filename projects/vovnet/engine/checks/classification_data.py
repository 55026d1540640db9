"""Checks of a classifier's data, as mmpretrain 1.2.0 reads and numbers it.

mmpretrain numbers the folders that it finds in the order of their names: a
class without a folder in the validation split shifts all that follow.
"""
import os
from collections.abc import Sequence
from typing import Any

from mmengine.registry import DefaultScope
from mmpretrain.datasets import CIFAR10, CustomDataset, ImageNet
from mmpretrain.datasets.custom import find_folders
from mmpretrain.datasets.utils import check_md5
from mmpretrain.registry import DATASETS

from ...utils.errors import UserError
from . import common


def check_classification_data(cfg: dict, splits: Sequence[str]) -> list[str]:
    """Check a classifier's data; see :func:`vovnet.engine.checks`."""
    warnings, downloaded = [], set()
    training = _find_training_folders(cfg)
    for split in splits:
        where = f'{split}_dataloader'
        for dataset in _open_datasets(cfg, split):
            with common.name_in_errors(where):
                if isinstance(dataset, CIFAR10):
                    # A download for one split serves the next.
                    root = os.path.normpath(dataset.data_prefix['root'])
                    if dataset.download:
                        downloaded.add(root)
                    elif root not in downloaded:
                        _check_cifar(dataset, root, where)
                    classes = list(dataset.CLASSES)
                elif dataset.ann_file:
                    classes, unused = _read_labels(
                        dataset, cfg['model'].get('head') or {})
                    if unused:
                        warnings.append(
                            f'{where}: {dataset.ann_file} has no image of the '
                            f'classes {common.abbreviate(unused)}')
                else:
                    classes = _read_folders(dataset)
                    _compare_folders(classes, training or classes)
            common.check_num_classes(cfg['model'], classes, where)
            _check_settings(cfg, len(classes), split)
    return warnings


def _open_datasets(cfg: dict, split: str) -> list[Any]:
    """Build a split's data sets, without their images."""
    datasets = []
    for data in common.iter_datasets(cfg.get(f'{split}_dataloader')):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            kind = common.get_dataset_class(data, DATASETS)
        if not isinstance(kind, type) or common.is_remote(data) or \
                not issubclass(kind, (CIFAR10, CustomDataset)):
            continue
        options = {key: value for key, value in data.items()
                   if key not in ('type', '_scope_', 'pipeline')}
        dataset = kind(**options, lazy_init=True)
        if getattr(dataset, 'with_label', True):
            datasets.append(dataset)
    return datasets


def _find_training_folders(cfg: dict) -> list[str] | None:
    """Return the classes of the training data, if these are folders here."""
    for dataset in _open_datasets(cfg, 'train'):
        if not isinstance(dataset, CIFAR10) and not dataset.ann_file \
                and os.path.isdir(dataset.img_prefix):
            return find_folders(dataset.img_prefix)[0]
    return None


def _check_cifar(dataset: CIFAR10, root: str, where: str) -> None:
    """Check the files, which nobody has asked to download."""
    name = type(dataset).__name__
    for file, md5 in dataset.train_list + dataset.test_list:
        path = os.path.join(root, dataset.base_folder, file)
        if not os.path.isfile(path) or not check_md5(path, md5):
            fault = 'damaged' if os.path.isfile(path) else 'missing'
            raise UserError(
                f'{root} does not hold {name} ({path} is {fault}); download '
                f'and unpack {dataset.url} there, or let mmpretrain do it: '
                f'--cfg-options {where}.dataset.download=True')


def _read_folders(dataset: CustomDataset) -> list[str]:
    """Return the classes that the folders stand for, in mmpretrain's order."""
    root = dataset.img_prefix
    if not os.path.isdir(root):
        raise UserError(f'image folder {root} does not exist; check data_root '
                        'and data_prefix')
    folders, _ = find_folders(root)
    if not folders:
        labels = (', or write their classes into meta/val.txt and set '
                  "ann_file='meta/val.txt'"
                  if isinstance(dataset, ImageNet) else '')
        raise UserError(f'{root} holds no folders; put the images of each '
                        f'class into a folder of its own there{labels}')
    for folder in folders:
        path = os.path.join(root, folder)
        images = [os.path.join(parent, file) for parent, _, files in
                  os.walk(path) for file in files
                  if dataset.is_valid_file(file)]
        if not images:
            raise UserError(
                f'class folder {path} holds no images '
                f'({", ".join(sorted(dataset.extensions))}); fill it or '
                'remove it')
        common.check_images(images, path, f'class folder {path}')
    names = dataset.CLASSES
    if names is None:
        return folders
    if len(names) != len(folders):
        raise UserError(
            f'{root} has {len(folders)} class folders '
            f'({common.abbreviate(folders)}), but {type(dataset).__name__} '
            f'has {len(names)} class names; add what is missing or, for '
            "classes of your own, set type='CustomDataset' without "
            'metainfo.classes')
    if sorted(names) == folders != list(names):
        raise UserError(
            f'mmpretrain numbers the folders of {root} in the order of their '
            f'names; write metainfo.classes in it: {tuple(folders)}')
    return folders


def _compare_folders(classes: list[str], training: list[str]) -> None:
    """Check that a split has the folders of the training data."""
    missing = [name for name in training if name not in classes]
    extra = [name for name in classes if name not in training]
    if missing or extra:
        raise UserError(
            'its class folders are not those of train_dataloader (missing: '
            f'{common.abbreviate(missing)}; too many: '
            f'{common.abbreviate(extra)}), which would change the numbers of '
            'the classes; make them equal')


def _read_labels(dataset: CustomDataset, head: dict) -> tuple[list, list]:
    """Return the classes of a file of labels, and those without images."""
    path = dataset.ann_file
    names = list(dataset.CLASSES or range(head.get('num_classes', 0)))
    lines = common.read_annotation_file(path).splitlines()
    images, labels = [], set()
    for number, line in enumerate(lines, 1):
        image, _, label = line.strip().rpartition(' ')
        if not image or not label.isdigit() or (
                names and int(label) >= len(names)):
            raise UserError(
                f"{path}, line {number}: '{line}' is not a path, a blank and "
                f'the number of one of {len(names)} classes (the first is 0); '
                'correct it, or metainfo.classes and model.head.num_classes')
        images.append(os.path.join(dataset.img_prefix, image))
        labels.add(int(label))
    common.check_images(images, dataset.img_prefix or '.', path)
    return names, [name for i, name in enumerate(names) if i not in labels]


def _check_settings(cfg: dict, count: int, split: str) -> None:
    """Check that data preprocessor and metrics know as many classes."""
    preprocess = cfg['model'].get('data_preprocessor') or cfg.get(
        'data_preprocessor') or {}
    if preprocess.get('num_classes', count) != count:
        raise UserError(
            f'data_preprocessor.num_classes is {preprocess["num_classes"]}, '
            f'but {split}_dataloader has {count} classes; set it to {count}')
    for metric in common.get_evaluators(cfg, split):
        topk = metric.get('topk', ())
        if max((topk, ) if isinstance(topk, int) else topk or (0, )) > count:
            raise UserError(f'{split}_evaluator: topk={topk}, but there are '
                            f'{count} classes; set topk=(1, )')
