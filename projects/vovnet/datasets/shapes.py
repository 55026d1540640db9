"""A generated detection data set: colored shapes on textured backgrounds.

Annotations describe the visible pixels, as COCO's do: a shape loses what later
shapes cover and what lies outside the image. Polygons run along the edges of
the visible pixels, one for each connected piece, so that pycocotools
rasterizes them to exactly these pixels.
"""
import colorsys
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..utils.errors import UserError
from .generated_set import (
    RECORD,
    SPLITS,
    check_integers,
    write_jpeg,
    write_once,
)

LAYOUTS = ('coco', 'voc')
MIN_SIZE = 32
MIN_VISIBLE = 0.5
"""Least visible share of a shape's area."""

_GENERATOR = 'vovnet.datasets.make_shapes'
# To be raised when the same settings come to give other files.
_VERSION = 1
# Draws of one shape before the image does without it.
_ATTEMPTS = 20
# Range of a shape's circumscribed radius, relative to the image's side
# (12 to 45 px at 160 px), and its least value in px.
_RADII = (0.075, 0.28)
_MIN_RADIUS = 5
_SUPERSAMPLING = 8


def _create_polygon(count: int, radii: Sequence[float] = (1, )) -> np.ndarray:
    """Place points at equal angles, cycling through ``radii``."""
    angles = 2 * np.pi * np.arange(count) / count
    radii = np.resize(radii, count)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _create_plus(width: float) -> np.ndarray:
    """Outline a plus with arms of a ``width`` relative to its span."""
    arm = np.array([[1, -width], [1, width], [width, width]])
    turns = [arm @ np.array([[c, s], [-s, c]])
             for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate(turns) / np.hypot(1, width)


# Corners of every shape in the unit circle.
_OUTLINES = {
    'circle': _create_polygon(64),
    'square': _create_polygon(4),
    'triangle': _create_polygon(3),
    'star': _create_polygon(10, (1, 0.45)),
    'cross': _create_plus(0.36),
}
SHAPE_CLASSES = tuple(_OUTLINES)


@dataclass
class Shape:
    """Drawn shape, including its hidden parts.

    Attributes:
        name: Class, one of ``SHAPE_CLASSES``.
        outline: Corners, (N, 2), x and y in px, where pixel ``i`` spans
            ``[i, i + 1]``. May reach out of the image.
        colors: Two BGR colors, (2, 3), 0 to 255, between which the texture
            varies.
    """

    name: str
    outline: np.ndarray
    colors: np.ndarray


@dataclass
class Scene:
    """Picture and its contents.

    Attributes:
        image: BGR, (size, size, 3), uint8.
        ids: Visible shape at each pixel, (size, size), int32: 0 for the
            background, ``k`` for ``shapes[k - 1]``.
        shapes: Shapes in drawing order, the topmost last.
    """

    image: np.ndarray
    ids: np.ndarray
    shapes: list[Shape]

    def list_instances(self) -> list[dict]:
        """Describe the visible part of every shape.

        Returns:
            Dictionaries with ``name``, ``segmentation`` (polygons), ``area``
            and ``bbox`` (x, y, width, height), all in px.
        """
        instances = []
        for k, shape in enumerate(self.shapes, 1):
            mask = self.ids == k
            instances.append(
                dict(name=shape.name,
                     segmentation=trace_polygons(mask),
                     area=int(mask.sum()),
                     bbox=list(cv2.boundingRect(mask.astype(np.uint8)))))
        return instances


def trace_polygons(mask: np.ndarray) -> list[list[int]]:
    """Trace the outer pixel edges of a mask, as COCO polygons.

    Args:
        mask: (H, W), bool, without holes, which COCO cannot express.

    Returns:
        One polygon ``[x1, y1, x2, y2, ...]`` for each 8-connected piece.
    """
    # OpenCV's contours run through the middle of border pixels. At double
    # size, the two halves of pixel i have the numbers 2i and 2i + 1, which
    # (n + 1) // 2 moves to the pixel's edges, i and i + 1.
    double = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2,
                        interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(double, cv2.RETR_EXTERNAL,
                                   cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        corners = (contour[:, 0] + 1) // 2
        moved = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
        polygons.append(corners[moved].ravel().tolist())
    return polygons


def draw_scene(split: str, index: int, size: int = 160, seed: int = 0,
               classes: Sequence[str] = SHAPE_CLASSES, max_objects: int = 5,
               empty_share: float = 0.0) -> Scene:
    """Draw image ``index`` of a split; it depends on the arguments alone.

    Every shape keeps at least ``MIN_VISIBLE`` of its area visible, without
    holes. A shape that finds no such place is left out; the first always
    finds one, because at most a quarter of its radius leaves the image.

    Args:
        split: 'train' or 'val'.
        index: Number of the image in its split, from 0.
        size: Side of the square image in px, at least ``MIN_SIZE``.
        seed: Seed of the whole set, at least 0.
        classes: Some of ``SHAPE_CLASSES``.
        max_objects: Largest number of shapes in an image.
        empty_share: Probability that the image is left empty, 0 to 1. Does
            not change the background.

    Raises:
        UserError: If an argument is out of range.
    """
    _check_scene(split, index, size, seed, classes, max_objects, empty_share)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    canvas = _draw_texture(rng, size, size, _draw_background_colors(rng))
    ids = np.zeros((size, size), np.int32)
    shapes = []
    empty = rng.random() < empty_share
    for _ in range(0 if empty else rng.integers(1, max_objects + 1)):
        _add_shape(rng, canvas, ids, shapes, classes)
    image = canvas.clip(0, 255).round().astype(np.uint8)
    return Scene(image, ids, shapes)


def _check_scene(split: str, index: int, size: int, seed: int,
                 classes: Sequence[str], max_objects: int,
                 empty_share: float) -> None:
    if split not in SPLITS:
        raise UserError(f'split is {split!r}; choose from: '
                        f'{", ".join(SPLITS)}')
    check_integers(0, index=index, seed=seed)
    check_integers(1, max_objects=max_objects)
    check_integers(MIN_SIZE, size=size)
    unknown = set(classes) - set(SHAPE_CLASSES)
    if unknown or not classes or len(set(classes)) < len(classes):
        raise UserError(f'classes are {list(classes)}; give one or more of '
                        f'these, each once: {", ".join(SHAPE_CLASSES)}')
    if not 0 <= empty_share <= 1:
        raise UserError(f'empty_share is {empty_share!r}; give a number from '
                        '0 to 1')


def _add_shape(rng: np.random.Generator, canvas: np.ndarray, ids: np.ndarray,
               shapes: list[Shape], classes: Sequence[str]) -> None:
    """Draw one more shape, in place, if there is room."""
    for _ in range(_ATTEMPTS):
        name = classes[rng.integers(len(classes))]
        outline = _place_outline(rng, _OUTLINES[name], len(ids))
        window, cover = _compute_coverage(outline, len(ids))
        trial = ids.copy()
        trial[window][cover >= 0.5] = len(shapes) + 1
        outlines = [*(shape.outline for shape in shapes), outline]
        if all(_is_visible(trial == k, whole)
               for k, whole in enumerate(outlines, 1)):
            break
    else:
        return
    ids[:] = trial
    under = canvas[window]
    colors = _draw_shape_colors(rng, under[cover > 0])
    shapes.append(Shape(name, outline, colors))
    texture = _draw_texture(rng, *cover.shape, colors)
    under += cover[..., None] * (texture - under)


def _place_outline(rng: np.random.Generator, corners: np.ndarray,
                   size: int) -> np.ndarray:
    """Rotate, scale and move a unit outline at random."""
    low, high = (share * size for share in _RADII)
    low = max(low, _MIN_RADIUS)
    radius = np.exp(rng.uniform(np.log(low), np.log(high)))
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    center = rng.uniform(0.75 * radius, size - 0.75 * radius, 2)
    return center + radius * corners @ np.array([[cos, sin], [-sin, cos]])


def _compute_coverage(outline: np.ndarray, size: int
                      ) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return a polygon's rows and columns, and the covered share of pixels."""
    low = np.floor(outline.min(axis=0)).clip(0, size).astype(int)
    high = np.ceil(outline.max(axis=0)).clip(0, size).astype(int)
    window = slice(low[1], high[1]), slice(low[0], high[0])
    width, height = high - low
    # Not cv2.fillPoly, which also fills every pixel that the outline meets.
    polygon = ((outline - low) * _SUPERSAMPLING).ravel().tolist()
    fine = coco_mask.decode(
        coco_mask.frPyObjects([polygon], height * _SUPERSAMPLING,
                              width * _SUPERSAMPLING))[..., 0]
    cover = cv2.resize(np.ascontiguousarray(fine, np.float32),
                       (width, height), interpolation=cv2.INTER_AREA)
    return window, cover


def _is_visible(mask: np.ndarray, outline: np.ndarray) -> bool:
    """Return whether enough of a shape is visible, without holes."""
    whole = cv2.contourArea(outline.astype(np.float32))
    if mask.sum() < MIN_VISIBLE * whole:
        return False
    _, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP,
                               cv2.CHAIN_APPROX_SIMPLE)
    parents = tree[0, :, 3]
    return bool((parents < 0).all())


def _convert_hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert a color from HSV in 0 to 1 to BGR in 0 to 255."""
    rgb = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * np.array(rgb[::-1], np.float32)


def _draw_background_colors(rng: np.random.Generator) -> np.ndarray:
    """Draw two muted colors of similar hue and lightness."""
    hue, value = rng.uniform(), rng.uniform(0.25, 0.9)
    return np.stack([
        _convert_hsv((hue + rng.uniform(-0.1, 0.1)) % 1,
                     rng.uniform(0.05, 0.4),
                     np.clip(value + rng.uniform(-0.2, 0.2), 0, 1))
        for _ in range(2)])


def _draw_shape_colors(rng: np.random.Generator,
                       covered: np.ndarray) -> np.ndarray:
    """Draw two shades of a vivid color unlike the pixels it covers."""
    candidates = np.stack([
        _convert_hsv(rng.uniform(), rng.uniform(0.6, 1),
                     rng.uniform(0.55, 1)) for _ in range(5)])
    # A tenth of the covered pixels may be similar; it is often the texture.
    distance = np.linalg.norm(covered[:, None] - candidates, axis=2)
    color = candidates[np.percentile(distance, 10, axis=0).argmax()]
    return np.stack([color, rng.uniform(0.6, 0.9) * color])


def _draw_texture(rng: np.random.Generator, height: int, width: int,
                  colors: np.ndarray) -> np.ndarray:
    """Draw a pattern of two colors and some grain, as float32 BGR."""
    side = max(height, width)
    period = side * rng.uniform(0.1, 0.35)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[:height, :width]
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    along, across = 2 * np.pi * along / period, 2 * np.pi * across / period
    patterns = (
        lambda: np.full((height, width), 0.5),
        lambda: (along - along.min()) / np.ptp(along),
        lambda: 0.5 + 0.5 * np.tanh(3 * np.sin(along)),
        lambda: 0.5 + 0.5 * np.tanh(6 * np.sin(along) * np.sin(across)),
        lambda: cv2.resize(rng.random((6, 6)), (width, height),
                           interpolation=cv2.INTER_LINEAR),
    )
    mix = patterns[rng.integers(len(patterns))]()[..., None]
    grain = rng.standard_normal((height, width, 1), np.float32)
    texture = colors[0] + mix * (colors[1] - colors[0])
    return (texture + rng.uniform(2, 8) * grain).astype(np.float32)


def make_shapes(
        root: str | Path, num_train: int = 400, num_val: int = 100,
        size: int = 160, seed: int = 0, classes: Sequence[str] = SHAPE_CLASSES,
        max_objects: int = 5, empty_share: float = 0.0, layout: str = 'coco',
        force: bool = False,
        progress: Callable[[list], Iterable] = iter) -> bool:
    """Write a whole data set in COCO's or VOC's layout, or nothing.

    The same settings give the same bytes (with the same numpy and OpenCV),
    and a larger set begins with the images of a smaller one. COCO's category
    ids count from 1 in the order of ``classes``; VOC's boxes count pixels
    from 1 and include both ends.

    Args:
        root: Folder to make; missing, empty or made by this function.
        num_train, num_val: Images in each split.
        size, seed, classes, max_objects, empty_share: As in
            :func:`draw_scene`.
        layout: 'coco' or 'voc'.
        force: Replace a set that this function made earlier. Other files
            are never touched.
        progress: Wraps the list of images to be drawn, as ``tqdm`` does.

    Returns:
        True if the set was written, False if it was there already.

    Raises:
        UserError: If an argument is out of range, ``root`` holds anything
            else, or it cannot be written.
    """
    check_integers(1, num_train=num_train, num_val=num_val)
    _check_scene('train', 0, size, seed, classes, max_objects, empty_share)
    if layout not in LAYOUTS:
        raise UserError(f'layout is {layout!r}; choose from: '
                        f'{", ".join(LAYOUTS)}')
    scene = dict(size=size, seed=seed, classes=list(classes),
                 max_objects=max_objects, empty_share=empty_share)
    settings = dict(generator=_GENERATOR, version=_VERSION, layout=layout,
                    num_train=num_train, num_val=num_val, **scene)
    return write_once(root, settings, _list_files,
                      partial(_write, settings=settings, scene=scene,
                              progress=progress), force)


def _list_images(settings: dict) -> list[tuple[str, int, str]]:
    """Return split, index and file name without suffix of every image."""
    return [(split, index, f'{split}_{index:06d}') for split in SPLITS
            for index in range(settings[f'num_{split}'])]


def _get_image_path(layout: str, split: str, stem: str) -> str:
    return f'{split if layout == "coco" else "JPEGImages"}/{stem}.jpg'


def _list_files(settings: dict) -> set[str]:
    """Return the files of a set, relative to its root."""
    layout, images = settings['layout'], _list_images(settings)
    files = {RECORD, *(_get_image_path(layout, split, stem)
                       for split, _, stem in images)}
    if layout == 'coco':
        return files | {f'annotations/instances_{s}.json' for s in SPLITS}
    return (files | {f'ImageSets/Main/{split}.txt' for split in SPLITS}
            | {f'Annotations/{stem}.xml' for _, _, stem in images})


def _write(root: Path, settings: dict, scene: dict,
           progress: Callable[[list], Iterable]) -> None:
    """Draw every image, then write the annotations."""
    layout = settings['layout']
    contents = {split: [] for split in SPLITS}
    for split, index, stem in progress(_list_images(settings)):
        drawn = draw_scene(split, index, **scene)
        write_jpeg(root / _get_image_path(layout, split, stem), drawn.image)
        contents[split].append((stem, drawn.list_instances()))
    write_split = _write_coco if layout == 'coco' else _write_voc
    for split in SPLITS:
        write_split(root, split, contents[split], settings)


def _write_coco(root: Path, split: str, contents: list[tuple],
                settings: dict) -> None:
    categories = [dict(id=k, name=name, supercategory='shape')
                  for k, name in enumerate(settings['classes'], 1)]
    ids = {category['name']: category['id'] for category in categories}
    side = settings['size']
    images, annotations = [], []
    for image_id, (stem, instances) in enumerate(contents, 1):
        images.append(dict(id=image_id, file_name=f'{stem}.jpg', width=side,
                           height=side, license=1))
        for instance in instances:
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image_id,
                     category_id=ids[instance['name']], iscrowd=0,
                     bbox=instance['bbox'], area=instance['area'],
                     segmentation=instance['segmentation']))
    coco = dict(
        info=dict(description=f'Generated shapes, {split}',
                  version=str(_VERSION), contributor=_GENERATOR),
        licenses=[dict(id=1, name='CC0 1.0', url='https://'
                       'creativecommons.org/publicdomain/zero/1.0/')],
        categories=categories, images=images, annotations=annotations)
    Path(root, f'annotations/instances_{split}.json').write_text(
        json.dumps(coco, separators=(',', ':')))


def _write_voc(root: Path, split: str, contents: list[tuple],
               settings: dict) -> None:
    for stem, instances in contents:
        tree = ET.Element('annotation')
        _add_texts(tree, folder='JPEGImages', filename=f'{stem}.jpg')
        _add_texts(ET.SubElement(tree, 'size'), width=settings['size'],
                   height=settings['size'], depth=3)
        for instance in instances:
            x, y, width, height = instance['bbox']
            element = ET.SubElement(tree, 'object')
            _add_texts(element, name=instance['name'], difficult=0)
            _add_texts(ET.SubElement(element, 'bndbox'), xmin=x + 1,
                       ymin=y + 1, xmax=x + width, ymax=y + height)
        ET.indent(tree)
        Path(root, f'Annotations/{stem}.xml').write_bytes(ET.tostring(tree))
    Path(root, f'ImageSets/Main/{split}.txt').write_text(
        ''.join(f'{stem}\n' for stem, _ in contents))


def _add_texts(element: ET.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ET.SubElement(element, tag).text = str(text)
