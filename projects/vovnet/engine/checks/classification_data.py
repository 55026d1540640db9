"""Looks at a classifier's data before training does; see :mod:`.check`.

Own work. What mmpretrain reads and how it numbers classes was read in
mmpretrain 1.2.0 (``datasets/custom.py``, ``imagenet.py``, ``cifar.py``): it
numbers the folders that it finds in the order of their names. A class whose
folder is missing from the validation split shifts all that follow, and
nothing says so.
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
from .detection_data import check_heads, is_remote, leaves, some


def check_classification(cfg: dict,
                         splits: Sequence[str] = ('train', 'val', 'test')
                         ) -> list[str]:
    """Check a classifier's data sets and its number of classes.

    Folders of images (mmpretrain's ``CustomDataset`` and ``ImageNet``, with
    or without a file of labels) and CIFAR-10 and -100. Other types, and data
    that is not on a local disk, are left alone. Folders are listed, files of
    labels are read and their images looked up; no image is opened. Folders
    of a split without 'train' are compared with those of the training data
    where these are there.

    Args:
        cfg: A whole config, of scope 'mmpretrain'.
        splits: Which of its data loaders to check.

    Returns:
        list[str]: What is odd but works, one line each.

    Raises:
        UserError: If files are missing, a class has no images, or classes,
            splits and model do not agree.
    """
    warnings, fetched = [], set()
    training = None if 'train' in splits else _training_folders(cfg)
    for split in splits:
        where = f'{split}_dataloader'
        for data in leaves((cfg.get(where) or {}).get('dataset')):
            dataset = _open(data)
            if dataset is None:
                continue
            if isinstance(dataset, CIFAR10):
                # What is downloaded for one split is there for the next.
                root = os.path.normpath(dataset.data_prefix['root'])
                if dataset.download:
                    fetched.add(root)
                elif root not in fetched:
                    _check_cifar(dataset, root, where)
                classes = list(dataset.CLASSES)
            elif dataset.ann_file:
                classes, odd = _read_labels(
                    dataset, where, cfg['model'].get('head') or {})
                warnings += odd
            else:
                classes = _read_folders(dataset, where)
                if training and training[1] != classes:
                    _refuse_split(where, classes, *training)
                if split == 'train':
                    training = where, classes
            _check_model(cfg, classes, split)
    return list(dict.fromkeys(warnings))


def _training_folders(cfg: dict) -> tuple[str, list[str]] | None:
    """Loader and classes of the training data, if these are folders here."""
    where = 'train_dataloader'
    for data in leaves((cfg.get(where) or {}).get('dataset')):
        dataset = _open(data)
        if dataset is not None and not dataset.ann_file and \
                not isinstance(dataset, CIFAR10) and \
                os.path.isdir(dataset.img_prefix):
            return where, find_folders(dataset.img_prefix)[0]
    return None


def _open(data: dict) -> Any:
    """The data set without its images, or None if it is not looked at."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        kind = DATASETS.get(data['type']) if isinstance(
            data['type'], str) else data['type']
    if is_remote(data) or not (isinstance(kind, type) and issubclass(
            kind, (CIFAR10, CustomDataset))):
        return None
    dataset = kind(**{key: value for key, value in data.items()
                      if key not in ('type', '_scope_', 'pipeline')},
                   lazy_init=True)
    return dataset if getattr(dataset, 'with_label', True) else None


def _check_cifar(dataset: CIFAR10, root: str, where: str) -> None:
    """Its files must be there, since nobody has asked to download them."""
    name = type(dataset).__name__
    remedy = (f'download and unpack {dataset.url} there, or let mmpretrain '
              f'do it: --cfg-options {where}.dataset.download=True')
    for file, md5 in dataset.train_list + dataset.test_list:
        path = os.path.join(root, dataset.base_folder, file)
        if not os.path.isfile(path):
            raise UserError(f'{where}: {root} does not hold {name} ({path} '
                            f'is missing); {remedy}')
        if not check_md5(path, md5):
            raise UserError(f'{where}: {path} is damaged or not of {name}; '
                            f'remove it, then {remedy}')


def _read_folders(dataset: CustomDataset, where: str) -> list[str]:
    """The classes that the folders stand for, in mmpretrain's order."""
    root = dataset.img_prefix
    if not os.path.isdir(root):
        raise UserError(f'{where}: image folder {root} does not exist; check '
                        'data_root and data_prefix')
    folders, _ = find_folders(root)
    if not folders:
        instead = (', or write their classes into meta/val.txt and set '
                   "ann_file='meta/val.txt'"
                   if isinstance(dataset, ImageNet) else '')
        raise UserError(f'{where}: {root} holds no folders; put the images '
                        'of each class into a folder of its own there'
                        + instead)
    for folder in folders:
        path = os.path.join(root, folder)
        if folder.startswith('.'):
            raise UserError(f'{where}: mmpretrain would take the hidden '
                            f'folder {path} for a class; remove it')
        images = [os.path.join(parent, file) for parent, _, files in
                  os.walk(path) for file in files
                  if dataset.is_valid_file(file)]
        if not images:
            raise UserError(
                f'{where}: class folder {path} holds no images '
                f'({", ".join(sorted(dataset.extensions))}); fill it or '
                'remove it')
        for image in images:
            if not os.path.getsize(image):
                raise UserError(f'{where}: image {image} is an empty file; '
                                'replace it or remove it')
    names = dataset.CLASSES
    if names is None:
        return folders
    if len(names) != len(folders):
        raise UserError(
            f'{where}: {root} has {len(folders)} class folders '
            f'({some(folders)}), but {type(dataset).__name__} has '
            f'{len(names)} class names; add what is missing or, for classes '
            "of your own, set type='CustomDataset' without metainfo.classes")
    if sorted(names) == folders != list(names):
        raise UserError(
            f'{where}: mmpretrain numbers the folders of {root} in the order '
            f'of their names; write metainfo.classes in it: {tuple(folders)}')
    return folders


def _refuse_split(where: str, classes: list[str], training: str,
                  expected: list[str]) -> None:
    """Say how the folders of a split differ from those of training."""
    missing = [name for name in expected if name not in classes]
    if missing:
        raise UserError(
            f'{where}: no folder for {some(missing)}, which {training} has, '
            'so that mmpretrain would number the classes otherwise; add '
            'images of it, or take it out of training')
    foreign = [name for name in classes if name not in expected]
    raise UserError(
        f'{where}: a folder for {some(foreign)}, which {training} has not, '
        'so that mmpretrain would number the classes otherwise; remove it, '
        'or add it to training')


def _read_labels(dataset: CustomDataset, where: str, head: dict
                 ) -> tuple[list[str], list[str]]:
    """Classes of a file of labels, and what is odd about it."""
    path = dataset.ann_file
    if not os.path.isfile(path):
        raise UserError(f'{where}: annotation file {path} does not exist; '
                        'check data_root and ann_file')
    with open(path, encoding='utf-8') as file:
        lines = file.read().splitlines()
    if not lines:
        raise UserError(f'{where}: {path} lists no images; fill it')
    names = list(dataset.CLASSES or range(head.get('num_classes', 0)))
    seen = set()
    for number, line in enumerate(lines, 1):
        image, _, label = line.strip().rpartition(' ')
        if not image or not label.isdigit():
            raise UserError(f'{where}: {path}, line {number}: write a path '
                            'and, behind a blank, the number of its class')
        if names and int(label) >= len(names):
            raise UserError(
                f'{where}: {path}, line {number}: class {label}, but there '
                f'are {len(names)} classes, numbered from 0; correct it, or '
                'metainfo.classes and model.head.num_classes')
        image = os.path.join(dataset.img_prefix, image)
        if not os.path.isfile(image):
            raise UserError(f'{where}: image {image}, line {number} of '
                            f'{path}, does not exist; check data_prefix, or '
                            'take it out')
        seen.add(int(label))
    unused = [name for i, name in enumerate(names) if i not in seen]
    return names, [f'{where}: {path} has no image of the classes '
                   f'{some(unused)}'] if unused else []


def _check_model(cfg: dict, classes: list[str], split: str) -> None:
    """Head, data preprocessor and metric must know as many classes."""
    where, count = f'{split}_dataloader', len(classes)
    check_heads(cfg['model'], classes, where)
    prepare = cfg['model'].get('data_preprocessor') or cfg.get(
        'data_preprocessor') or {}
    if prepare.get('num_classes', count) != count:
        raise UserError(
            f'data_preprocessor.num_classes is {prepare["num_classes"]}, but '
            f'{where} has {count} classes; set it to {count}')
    evaluators = cfg.get(f'{split}_evaluator') or []
    for metric in [evaluators] if isinstance(evaluators, dict) else evaluators:
        topk = metric.get('topk', ())
        if max((topk, ) if isinstance(topk, int) else topk or (0, )) > count:
            raise UserError(f'{split}_evaluator: topk={topk}, but there are '
                            f'{count} classes; set topk=(1, )')
