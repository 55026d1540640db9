"""A generated detection data set: coloured shapes on textured grounds.

Source: written for this project; no public code was consulted. The layouts
are those of COCO (cocodataset.org, "Data format") and of the PASCAL VOC 2007
development kit.

What the annotations mean, after COCO's convention: they describe the pixels
that can be seen. A shape loses to those drawn later what they cover, and what
lies outside the image. Its polygons run along the edges of the visible
pixels, one polygon for each connected piece, so that pycocotools rasterises
them to exactly these pixels, the area is their number and the box is tight
around them. A shape has the pixels of which it covers at least half.
"""
import colorsys
import json
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from ..utils.errors import UserError

SPLITS = ('train', 'val')
LAYOUTS = ('coco', 'voc')
MIN_SIZE = 32
MIN_VISIBLE = 0.5
"""Least share of a shape's full area that stays in sight."""

RECORD = 'shapes.json'
"""Holds the settings of a generated set, in its root."""

_GENERATOR = 'vovnet.datasets.make_shapes'
# To be raised when the same settings come to give other files.
_VERSION = 1
# Draws of one shape before the image does without it.
_ATTEMPTS = 20
# Radius of a shape's circumscribed circle: from and to this share of the
# image's side (12 to 45 px at 160 px), but never less than so many px.
_RADII = (0.075, 0.28)
_LEAST_RADIUS = 5
_SUPERSAMPLING = 8


def _polar(count: int, radii: Sequence[float] = (1, )) -> np.ndarray:
    """Place ``count`` points at equal angles, cycling through ``radii``."""
    angles = 2 * np.pi * np.arange(count) / count
    radii = np.resize(radii, count)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _plus(width: float) -> np.ndarray:
    """Outline a plus whose arms are ``width`` of its span wide."""
    arm = np.array([[1, -width], [1, width], [width, width]])
    turns = [arm @ np.array([[c, s], [-s, c]])
             for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate(turns) / np.hypot(1, width)


# Corners of every shape in the unit circle.
_OUTLINES = {
    'circle': _polar(64),
    'square': _polar(4),
    'triangle': _polar(3),
    'star': _polar(10, (1, 0.45)),
    'cross': _plus(0.36),
}
SHAPE_CLASSES = tuple(_OUTLINES)


@dataclass
class Shape:
    """One drawn shape, whole, as if nothing lay over it.

    Attributes:
        name (str): Its class, one of ``SHAPE_CLASSES``.
        outline (np.ndarray): Corners, (N, 2), x and y in px, where pixel
            ``i`` spans ``[i, i + 1]``. May reach out of the image.
        colours (np.ndarray): The two BGR colours, (2, 3), 0 to 255, between
            which its texture moves.
    """

    name: str
    outline: np.ndarray
    colours: np.ndarray


@dataclass
class Scene:
    """One picture and what is in it.

    Attributes:
        image (np.ndarray): BGR, (size, size, 3), uint8.
        ids (np.ndarray): The shape seen at each pixel, (size, size), int32:
            0 for the ground, ``k`` for ``shapes[k - 1]``.
        shapes (list[Shape]): In drawing order, the topmost last.
    """

    image: np.ndarray
    ids: np.ndarray
    shapes: list[Shape]

    def instances(self) -> list[dict]:
        """Describe the visible part of every shape.

        Returns:
            list[dict]: For each shape its ``name``, ``segmentation`` (see
            ``trace_polygons``), ``area`` in px and ``bbox``: x, y, width and
            height in px.
        """
        described = []
        for k, shape in enumerate(self.shapes, 1):
            mask = self.ids == k
            described.append(
                dict(name=shape.name,
                     segmentation=trace_polygons(mask),
                     area=int(mask.sum()),
                     bbox=list(cv2.boundingRect(mask.astype(np.uint8)))))
        return described


def trace_polygons(mask: np.ndarray) -> list[list[int]]:
    """Trace the outer pixel edges of a mask, as COCO polygons.

    Args:
        mask (np.ndarray): Boolean, (height, width), without holes, which
            COCO's polygons cannot express.

    Returns:
        list[list[int]]: One polygon ``[x1, y1, x2, y2, ...]`` for each
        8-connected piece. pycocotools rasterises them to exactly ``mask``.
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


def draw_scene(split: str,
               index: int,
               size: int = 160,
               seed: int = 0,
               classes: Sequence[str] = SHAPE_CLASSES,
               max_objects: int = 5,
               empty_share: float = 0.0) -> Scene:
    """Draw image ``index`` of a split; it depends on the arguments alone.

    Every shape keeps at least ``MIN_VISIBLE`` of its area in sight, and no
    visible part has a hole: a shape for which ``_ATTEMPTS`` draws find no
    such place is left out. The first shape always finds one, since at most
    a quarter of its radius leaves the image.

    Args:
        split (str): 'train' or 'val'.
        index (int): Number of the image in its split, from 0.
        size (int): Side of the square image in px.
        seed (int): Seed of the whole set.
        classes (Sequence[str]): Shapes to draw from.
        max_objects (int): Shapes in an image: 1 to this many.
        empty_share (float): Probability that the image is left empty. Does
            not change the ground.

    Returns:
        Scene: The picture and its contents.

    Raises:
        UserError: If an argument is out of range.
    """
    _check_scene(split, index, size, seed, classes, max_objects, empty_share)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    canvas = _texture(rng, size, size, _ground_colours(rng))
    ids = np.zeros((size, size), np.int32)
    shapes = []
    empty = rng.random() < empty_share
    for _ in range(0 if empty else rng.integers(1, max_objects + 1)):
        _add_shape(rng, canvas, ids, shapes, classes)
    image = canvas.clip(0, 255).round().astype(np.uint8)
    return Scene(image, ids, shapes)


def _add_shape(rng: np.random.Generator, canvas: np.ndarray, ids: np.ndarray,
               shapes: list[Shape], classes: Sequence[str]) -> None:
    """Lay one more shape over the scene, in place, where there is room."""
    for _ in range(_ATTEMPTS):
        name = classes[rng.integers(len(classes))]
        outline = _place(rng, _OUTLINES[name], len(ids))
        window, cover = _coverage(outline, len(ids))
        trial = ids.copy()
        trial[window][cover >= 0.5] = len(shapes) + 1
        outlines = [*(shape.outline for shape in shapes), outline]
        if all(_well_visible(trial == k, whole)
               for k, whole in enumerate(outlines, 1)):
            break
    else:
        return
    ids[:] = trial
    under = canvas[window]
    colours = _standing_out(rng, under[cover > 0])
    shapes.append(Shape(name, outline, colours))
    under += cover[..., None] * (_texture(rng, *cover.shape, colours) - under)


def _place(rng: np.random.Generator, corners: np.ndarray,
           size: int) -> np.ndarray:
    """Turn, scale and move a unit outline to a random place."""
    low, high = (share * size for share in _RADII)
    low = max(low, _LEAST_RADIUS)
    radius = np.exp(rng.uniform(np.log(low), np.log(high)))
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    centre = rng.uniform(0.75 * radius, size - 0.75 * radius, 2)
    return centre + radius * corners @ np.array([[cos, sin], [-sin, cos]])


def _coverage(outline: np.ndarray,
              size: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """Measure how much of each pixel a polygon covers.

    Returns:
        tuple: The rows and columns of the image that hold the polygon, and
        the covered share, 0 to 1, of each pixel there, float32.
    """
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


def _well_visible(mask: np.ndarray, outline: np.ndarray) -> bool:
    """Tell whether enough of a shape is in sight, without holes."""
    whole = cv2.contourArea(outline.astype(np.float32))
    if mask.sum() < MIN_VISIBLE * whole:
        return False
    _, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP,
                               cv2.CHAIN_APPROX_SIMPLE)
    parents = tree[0, :, 3]
    return bool((parents < 0).all())


def _bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert a colour from HSV in 0 to 1 to BGR in 0 to 255."""
    rgb = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255 * np.array(rgb[::-1], np.float32)


def _ground_colours(rng: np.random.Generator) -> np.ndarray:
    """Draw two muted colours of neighbouring hue and lightness."""
    hue, value = rng.uniform(), rng.uniform(0.25, 0.9)
    return np.stack([
        _bgr((hue + rng.uniform(-0.1, 0.1)) % 1, rng.uniform(0.05, 0.4),
             np.clip(value + rng.uniform(-0.2, 0.2), 0, 1)) for _ in range(2)
    ])


def _standing_out(rng: np.random.Generator,
                  covered: np.ndarray) -> np.ndarray:
    """Draw two shades of a vivid colour unlike the pixels it covers."""
    drawn = np.stack([
        _bgr(rng.uniform(), rng.uniform(0.6, 1), rng.uniform(0.55, 1))
        for _ in range(5)
    ])
    # A tenth of the covered pixels may come near; it is often the texture.
    distance = np.linalg.norm(covered[:, None] - drawn, axis=2)
    colour = drawn[np.percentile(distance, 10, axis=0).argmax()]
    return np.stack([colour, rng.uniform(0.6, 0.9) * colour])


def _texture(rng: np.random.Generator, height: int, width: int,
             colours: np.ndarray) -> np.ndarray:
    """Fill a rectangle with a pattern of two colours and some grain.

    Returns:
        np.ndarray: BGR, (height, width, 3), float32.
    """
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
    texture = colours[0] + mix * (colours[1] - colours[0])
    return (texture + rng.uniform(2, 8) * grain).astype(np.float32)


def make_shapes(root: str | Path,
                num_train: int = 400,
                num_val: int = 100,
                size: int = 160,
                seed: int = 0,
                classes: Sequence[str] = SHAPE_CLASSES,
                max_objects: int = 5,
                empty_share: float = 0.0,
                layout: str = 'coco',
                force: bool = False,
                progress: Callable[[list], Iterable] = iter) -> bool:
    """Write a whole data set, or nothing.

    The same settings give the same bytes (with the same numpy and OpenCV),
    and a larger set begins with the images of a smaller one. The set is
    built in a hidden folder beside ``root`` and then renamed.

    - ``layout='coco'``: ``annotations/instances_{split}.json`` and
      ``{split}/{split}_{index:06d}.jpg``; category ids count from 1 in the
      order of ``classes``.
    - ``layout='voc'``: ``JPEGImages``, ``Annotations`` and
      ``ImageSets/Main/{split}.txt``; boxes in whole pixels counted from 1,
      both ends included, as in VOC.

    ``shapes.json`` records the settings, so that a second call with the
    same ones has nothing to do.

    Args:
        root (str | Path): Folder to make; missing, empty or made by this.
        num_train (int): Images in the split 'train', at least 1.
        num_val (int): Images in the split 'val', at least 1.
        size (int): Side of the square images in px, at least ``MIN_SIZE``.
        seed (int): Seed of the set, at least 0.
        classes (Sequence[str]): Some of ``SHAPE_CLASSES``.
        max_objects (int): Shapes in an image: 1 to this many.
        empty_share (float): Share of images without shapes, 0 to 1.
        layout (str): 'coco' or 'voc'.
        force (bool): Replace a set that this function made earlier. Other
            files are never touched.
        progress (Callable): Wraps the list of images to be drawn, such as
            ``tqdm.tqdm``.

    Returns:
        bool: True if the set was written, False if it was there already.

    Raises:
        UserError: If an argument is out of range, if ``root`` holds
            anything else, or if it cannot be written.
    """
    check_whole('num_train', num_train, 1)
    check_whole('num_val', num_val, 1)
    _check_scene('train', 0, size, seed, classes, max_objects, empty_share)
    if layout not in LAYOUTS:
        raise UserError(f'layout is {layout!r}; choose from: '
                        f'{", ".join(LAYOUTS)}')
    scene = dict(size=size, seed=seed, classes=list(classes),
                 max_objects=max_objects, empty_share=empty_share)
    settings = dict(generator=_GENERATOR, version=_VERSION, layout=layout,
                    num_train=num_train, num_val=num_val, **scene)
    return write_once(root, settings, _files,
                      partial(_write, settings=settings, scene=scene,
                              progress=progress), force)


def write_once(root: str | Path, settings: dict,
               files: Callable[[dict], set[str]],
               write: Callable[[Path], None], force: bool = False) -> bool:
    """Write a generated set whole or not at all, unless it is there.

    It is built in a hidden folder beside ``root``, which is then renamed.

    Args:
        root (str | Path): Folder to make; missing, empty or made by this.
        settings (dict): All that the set depends on, and its 'generator', a
            dotted name. ``write`` leaves it in the set's ``shapes.json``.
        files (Callable): Names the files of a set of such settings, relative
            to its root.
        write (Callable): Fills a folder that is not there yet.
        force (bool): Replace an earlier set of the same generator.

    Returns:
        bool: True if the set was written, False if it was there already.

    Raises:
        UserError: If ``root`` holds anything else, or cannot be written.
    """
    root = Path(root).expanduser().resolve()
    try:
        if _is_made(root, settings, files, force):
            return False
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{root.name}-',
                                         dir=root.parent) as beside:
            new = Path(beside, 'new')
            write(new)
            if root.exists():
                root.rename(Path(beside, 'old'))
            new.rename(root)
    except OSError as e:
        raise UserError(f'cannot write {root} ({e.strerror or e}): make room '
                        'or choose a folder that you may write') from e
    return True


def check_whole(name: str, value: int, low: int) -> None:
    """Raise a UserError unless a value is an integer of at least ``low``."""
    if not isinstance(value, int) or value < low:
        raise UserError(f'{name} is {value!r}; give a whole number of at '
                        f'least {low}')


def _check_scene(split: str, index: int, size: int, seed: int,
                 classes: Sequence[str], max_objects: int,
                 empty_share: float) -> None:
    """Raise a UserError for an argument of ``draw_scene`` out of range."""
    if split not in SPLITS:
        raise UserError(f'split is {split!r}; choose from: '
                        f'{", ".join(SPLITS)}')
    check_whole('index', index, 0)
    check_whole('size', size, MIN_SIZE)
    check_whole('seed', seed, 0)
    check_whole('max_objects', max_objects, 1)
    unknown = [name for name in classes if name not in SHAPE_CLASSES]
    if unknown or not classes or len(set(classes)) < len(classes):
        raise UserError(f'classes are {list(classes)}; give one or more of '
                        f'these, each once: {", ".join(SHAPE_CLASSES)}')
    if not 0 <= empty_share <= 1:
        raise UserError(f'empty_share is {empty_share!r}; give a number from '
                        '0 to 1')


def _stems(settings: dict) -> list[tuple[str, int, str]]:
    """List split, index and file name without suffix of every image."""
    return [(split, index, f'{split}_{index:06d}') for split in SPLITS
            for index in range(settings[f'num_{split}'])]


def _image_path(layout: str, split: str, stem: str) -> str:
    return f'{split if layout == "coco" else "JPEGImages"}/{stem}.jpg'


def _files(settings: dict) -> set[str]:
    """List the files of a set, relative to its root."""
    layout, stems = settings['layout'], _stems(settings)
    files = {RECORD, *(_image_path(layout, split, stem)
                        for split, _, stem in stems)}
    if layout == 'coco':
        return files | {f'annotations/instances_{s}.json' for s in SPLITS}
    return (files | {f'ImageSets/Main/{split}.txt' for split in SPLITS}
            | {f'Annotations/{stem}.xml' for _, _, stem in stems})


def _is_made(root: Path, settings: dict,
             files: Callable[[dict], set[str]], force: bool) -> bool:
    """Tell whether the wanted set is there already.

    Returns:
        bool: False if ``root`` is free to be written or, with ``force``,
        holds a generated set and nothing else.

    Raises:
        UserError: If it holds anything else.
    """
    if not root.exists():
        return False
    if not root.is_dir():
        raise UserError(f'{root} is a file; choose another folder')
    found = {path.relative_to(root).as_posix() for path in root.rglob('*')
             if path.is_symlink() or not path.is_dir()}
    if not any(root.iterdir()):
        return False
    try:
        recorded = json.loads((root / RECORD).read_text())
        made_here = recorded['generator'] == settings['generator']
        expected = files(recorded) if made_here else set()
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        made_here = False
    tool = settings['generator'].rpartition('.')[-1]
    if not made_here:
        raise UserError(f'{root} holds something that {tool} did not make; '
                        'choose another folder')
    missing, foreign = expected - found, found - expected
    if recorded == settings and not missing and not force:
        return True
    if foreign:
        raise UserError(f'{root} also holds {min(foreign)}, which {tool} '
                        'did not make; choose another folder, or move that '
                        'file away')
    if force:
        return False
    differences = [f'{key} is {recorded.get(key)!r}, not {value!r}'
                   for key, value in settings.items()
                   if recorded.get(key) != value]
    what = ', '.join(differences) or f'{min(missing)} is missing'
    raise UserError(f'{root} holds another generated set ({what}); choose '
                    'another folder, or replace the set with --force '
                    '(force=True)')


def _write(root: Path, settings: dict, scene: dict,
           progress: Callable[[list], Iterable]) -> None:
    """Draw every image, then write the annotations and the record."""
    for folder in {Path(root, file).parent for file in _files(settings)}:
        folder.mkdir(parents=True, exist_ok=True)
    layout = settings['layout']
    contents = {split: [] for split in SPLITS}
    for split, index, stem in progress(_stems(settings)):
        drawn = draw_scene(split, index, **scene)
        _, jpeg = cv2.imencode('.jpg', drawn.image,
                               [cv2.IMWRITE_JPEG_QUALITY, 95])
        Path(root, _image_path(layout, split, stem)).write_bytes(jpeg)
        contents[split].append((stem, drawn.instances()))
    write_split = _write_coco if layout == 'coco' else _write_voc
    for split in SPLITS:
        write_split(root, split, contents[split], settings)
    Path(root, RECORD).write_text(json.dumps(settings, indent=2) + '\n')


def _write_coco(root: Path, split: str, contents: list[tuple],
                settings: dict) -> None:
    """Write ``annotations/instances_{split}.json``."""
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
    """Write ``Annotations/*.xml`` and ``ImageSets/Main/{split}.txt``."""
    for stem, instances in contents:
        tree = ET.Element('annotation')
        _fill(tree, dict(folder='JPEGImages', filename=f'{stem}.jpg'))
        _fill(ET.SubElement(tree, 'size'),
              dict(width=settings['size'], height=settings['size'], depth=3))
        for instance in instances:
            x, y, width, height = instance['bbox']
            element = ET.SubElement(tree, 'object')
            _fill(element, dict(name=instance['name'], difficult=0))
            _fill(ET.SubElement(element, 'bndbox'),
                  dict(xmin=x + 1, ymin=y + 1, xmax=x + width,
                       ymax=y + height))
        ET.indent(tree)
        Path(root, f'Annotations/{stem}.xml').write_bytes(ET.tostring(tree))
    Path(root, f'ImageSets/Main/{split}.txt').write_text(
        ''.join(f'{stem}\n' for stem, _ in contents))


def _fill(element: ET.Element, texts: dict) -> None:
    for tag, text in texts.items():
        ET.SubElement(element, tag).text = str(text)
