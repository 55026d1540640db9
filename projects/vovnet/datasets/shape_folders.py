"""A generated classification data set: a folder of pictures for each class.

The layout is that of mmpretrain's ``CustomDataset`` and torchvision's
``ImageFolder``: ``{split}/{class}/{file}.jpg``.
"""
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ..utils.errors import UserError
from .generated_set import (
    RECORD,
    SPLITS,
    check_integers,
    write_jpeg,
    write_once,
)
from .shapes import MIN_SIZE, SHAPE_CLASSES, Scene, draw_scene

TEN_CLASSES = (*SHAPE_CLASSES, *(f'{name}+{name}' for name in SHAPE_CLASSES))
"""Ten classes: one of each shape, and two."""

_GENERATOR = 'vovnet.datasets.make_shape_folders'
# To be raised when the same settings come to give other files.
_VERSION = 1
# Scenes tried for one picture; of two different shapes one in four will do.
_ATTEMPTS = 128
# Side of a picture, relative to the extent of its shapes.
_MARGINS = (1.1, 1.5)


def draw_picture(name: str, split: str, index: int, size: int = 64,
                 seed: int = 0) -> np.ndarray:
    """Draw picture ``index`` of a class; it depends on the arguments alone.

    Args:
        name: Class: one of ``SHAPE_CLASSES``, or several joined by ``+``
            (``'circle+star'``).
        split: 'train' or 'val'.
        index: Number of the picture in its class and split, from 0.
        size: Side of the square picture in px, at least ``MIN_SIZE``.
        seed: Seed of the whole set.

    Returns:
        BGR picture, (size, size, 3), uint8, cut out of a scene that holds
        just these shapes.

    Raises:
        UserError: If an argument is out of range, or the shapes find no room.
    """
    wanted = sorted(name.split('+'))
    for attempt in range(index * _ATTEMPTS, (index + 1) * _ATTEMPTS):
        scene = draw_scene(split, attempt, size, seed, sorted(set(wanted)),
                           len(wanted))
        if sorted(shape.name for shape in scene.shapes) == wanted:
            return _crop(scene, np.random.default_rng([seed, attempt]))
    raise UserError(f'class {name}: its shapes find no room in {size} px; '
                    'ask for fewer of them')


def _crop(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Cut a square around all shapes and resize it to the scene's size."""
    size = len(scene.ids)
    visible = np.argwhere(scene.ids)
    low, high = visible.min(axis=0), visible.max(axis=0) + 1
    side = (high - low).max() * rng.uniform(*_MARGINS)
    side = min(int(np.ceil(side)), size)
    y, x = rng.integers((high - side).clip(0), low.clip(0, size - side),
                        endpoint=True)
    return cv2.resize(scene.image[y:y + side, x:x + side], (size, size))


def make_shape_folders(
        root: str | Path, num_train: int = 400, num_val: int = 100,
        size: int = 64, seed: int = 0, classes: Sequence[str] = SHAPE_CLASSES,
        force: bool = False,
        progress: Callable[[list], Iterable] = iter) -> bool:
    """Write a whole data set, or nothing.

    A larger set contains the pictures of a smaller one. For ``root``,
    ``force``, ``progress``, what is returned and raised see
    :func:`~vovnet.datasets.make_shapes`.

    Args:
        num_train, num_val: Pictures of each class in each split.
        size, seed, classes: As in :func:`draw_picture`.
    """
    check_integers(1, num_train=num_train, num_val=num_val)
    check_integers(MIN_SIZE, size=size)
    check_integers(0, seed=seed)
    unknown = set('+'.join(classes).split('+')) - set(SHAPE_CLASSES)
    if unknown or len(set(classes)) < len(classes):
        raise UserError(
            f'classes are {list(classes)}; give one or more, each once, made '
            f'of {", ".join(SHAPE_CLASSES)}: circle, or circle+star')
    settings = dict(generator=_GENERATOR, version=_VERSION,
                    num_train=num_train, num_val=num_val, size=size,
                    seed=seed, classes=list(classes))
    return write_once(root, settings, _list_files,
                      partial(_write, settings=settings, progress=progress),
                      force)


def _list_pictures(settings: dict) -> list[tuple[str, str, int]]:
    """Return class, split and index of every picture."""
    return [(name, split, index) for split in SPLITS
            for name in settings['classes']
            for index in range(settings[f'num_{split}'])]


def _get_path(picture: tuple[str, str, int]) -> str:
    name, split, index = picture
    return f'{split}/{name}/{split}_{name}_{index:06d}.jpg'


def _list_files(settings: dict) -> set[str]:
    return {RECORD, *map(_get_path, _list_pictures(settings))}


def _write(root: Path, settings: dict,
           progress: Callable[[list], Iterable]) -> None:
    for picture in progress(_list_pictures(settings)):
        image = draw_picture(*picture, settings['size'], settings['seed'])
        write_jpeg(root / _get_path(picture), image)
