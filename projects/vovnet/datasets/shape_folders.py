"""A generated classification data set: a folder of pictures for each class.

Source: written for this project, on the scenes of :mod:`.shapes`; no public
code was consulted. The layout is that of mmpretrain's ``CustomDataset`` and
torchvision's ``ImageFolder``: ``{split}/{class}/{file}.jpg``, classes numbered
in the order of their names.
"""
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ..utils.errors import UserError
from .shapes import (
    MIN_SIZE,
    RECORD,
    SHAPE_CLASSES,
    SPLITS,
    Scene,
    check_whole,
    draw_scene,
    write_once,
)

TEN_CLASSES = (*SHAPE_CLASSES, *(f'{name}+{name}' for name in SHAPE_CLASSES))
"""Ten classes: one of each shape, and two."""

_GENERATOR = 'vovnet.datasets.make_shape_folders'
# To be raised when the same settings come to give other files.
_VERSION = 1
# Scenes drawn for one picture; of two different shapes one in four will do.
_DRAWS = 128
# A picture is the square around its shapes, so many times as wide as they.
_MARGINS = (1.1, 1.5)


def draw_picture(name: str, split: str, index: int, size: int = 64,
                 seed: int = 0) -> np.ndarray:
    """Draw picture ``index`` of a class; it depends on the arguments alone.

    Args:
        name (str): The class: one of ``SHAPE_CLASSES``, or some joined by
            ``+`` (``'circle+star'``). The picture is cut out of a scene of
            its size that holds just these shapes.
        split (str): 'train' or 'val'.
        index (int): Number of the picture in its class and split, from 0.
        size (int): Side of the square picture in px.
        seed (int): Seed of the whole set.

    Returns:
        np.ndarray: BGR, (size, size, 3), uint8.

    Raises:
        UserError: If an argument is out of range, or so many shapes find no
            room.
    """
    wanted = sorted(name.split('+'))
    for draw in range(index * _DRAWS, (index + 1) * _DRAWS):
        scene = draw_scene(split, draw, size, seed, sorted(set(wanted)),
                           len(wanted))
        if sorted(shape.name for shape in scene.shapes) == wanted:
            return _cut(scene, np.random.default_rng([seed, draw]))
    raise UserError(f'class {name}: its shapes find no room in {size} px; '
                    'ask for fewer of them')


def _cut(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Cut a square around all shapes and bring it to the scene's size."""
    size = len(scene.ids)
    seen = np.argwhere(scene.ids)
    low, high = seen.min(axis=0), seen.max(axis=0) + 1
    side = (high - low).max() * rng.uniform(*_MARGINS)
    side = min(int(np.ceil(side)), size)
    y, x = rng.integers((high - side).clip(0), low.clip(0, size - side),
                        endpoint=True)
    return cv2.resize(scene.image[y:y + side, x:x + side], (size, size))


def make_shape_folders(root: str | Path,
                       num_train: int = 400,
                       num_val: int = 100,
                       size: int = 64,
                       seed: int = 0,
                       classes: Sequence[str] = SHAPE_CLASSES,
                       force: bool = False,
                       progress: Callable[[list], Iterable] = iter) -> bool:
    """Write a whole data set, or nothing.

    The same settings give the same bytes (with the same numpy and OpenCV),
    and a larger set holds the pictures of a smaller one. ``shapes.json``
    records the settings, so that a second call has nothing to do.

    Args:
        root (str | Path): Folder to make; missing, empty or made by this.
        num_train (int): Pictures of each class in 'train', at least 1.
        num_val (int): Pictures of each class in 'val', at least 1.
        size (int): Side of the square pictures in px, at least ``MIN_SIZE``.
        seed (int): Seed of the set, at least 0.
        classes (Sequence[str]): As :func:`draw_picture` takes them, such as
            ``SHAPE_CLASSES`` or ``TEN_CLASSES``.
        force (bool): Replace a set that this function made earlier. Other
            files are never touched.
        progress (Callable): Wraps the list of pictures to be drawn, such as
            ``tqdm.tqdm``.

    Returns:
        bool: True if the set was written, False if it was there already.

    Raises:
        UserError: If an argument is out of range, if ``root`` holds
            anything else, or if it cannot be written.
    """
    check_whole('num_train', num_train, 1)
    check_whole('num_val', num_val, 1)
    check_whole('size', size, MIN_SIZE)
    check_whole('seed', seed, 0)
    wrong = [name for name in classes
             if not set(name.split('+')) <= set(SHAPE_CLASSES)]
    if wrong or not classes or len(set(classes)) < len(classes):
        raise UserError(
            f'classes are {list(classes)}; give one or more, each once, made '
            f'of {", ".join(SHAPE_CLASSES)}: circle, or circle+star')
    settings = dict(generator=_GENERATOR, version=_VERSION,
                    num_train=num_train, num_val=num_val, size=size,
                    seed=seed, classes=list(classes))
    return write_once(
        root, settings, lambda made: {RECORD, *map(_file, _pictures(made))},
        partial(_write, settings=settings, progress=progress), force)


def _pictures(settings: dict) -> list[tuple[str, str, int]]:
    """Class, split and index of every picture."""
    return [(name, split, index) for split in SPLITS
            for name in settings['classes']
            for index in range(settings[f'num_{split}'])]


def _file(picture: tuple[str, str, int]) -> str:
    name, split, index = picture
    return f'{split}/{name}/{split}_{name}_{index:06d}.jpg'


def _write(root: Path, settings: dict,
           progress: Callable[[list], Iterable]) -> None:
    for split in SPLITS:
        for name in settings['classes']:
            Path(root, split, name).mkdir(parents=True)
    for picture in progress(_pictures(settings)):
        _, jpeg = cv2.imencode(
            '.jpg', draw_picture(*picture, settings['size'],
                                 settings['seed']),
            [cv2.IMWRITE_JPEG_QUALITY, 95])
        Path(root, _file(picture)).write_bytes(jpeg)
    Path(root, RECORD).write_text(json.dumps(settings, indent=2) + '\n')
