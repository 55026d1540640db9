"""Looks at the data before training does, and says what will not work.

Own work. What mmdet reads, filters and numbers was read in mmdet 3.3.0
(``datasets/coco.py``, ``datasets/xml_style.py``). It fails late and far from
the cause: classes that match no annotation end as "need at least one array to
concatenate", a wrong path after an hour as a missing file.

Cost: a COCO file is parsed once and a VOC split's XML files once more than
mmdet does itself, and every image is looked up (not opened). See
:func:`check_datasets`.
"""
import json
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.registry import DATASETS

from ...utils.errors import UserError


class _Annotations(NamedTuple):
    """What an annotation file of either kind holds."""
    file: str
    folder: str  # of the images
    images: list[str]  # paths
    names: list[str]  # of the categories, in the order of the file
    objects: Counter  # name -> objects


def check_datasets(cfg: dict,
                   splits: Sequence[str] = ('train', 'val', 'test')
                   ) -> list[str]:
    """Check data sets, their images and the heads' numbers of classes.

    Data sets inside wrappers (``RepeatDataset``, ``ConcatDataset``,
    ``ClassBalancedDataset``, ``MultiImageMixDataset``) are found. Types that
    read neither COCO nor VOC annotations in mmdet's way, and data that is not
    on a local disk, are left alone. For a file like COCO's
    instances_train2017 (118k images, 860k objects) parsing takes 10 to 20
    seconds and the images less than one on a local disk (measured at a tenth
    of that size).

    A classifier's data sets are those of :mod:`.check_folders`.

    Args:
        cfg: A whole config.
        splits: Which of its data loaders to check.

    Returns:
        list[str]: What is odd but works, one line each.

    Raises:
        UserError: If a file is missing or broken, a split is empty, or
            classes, annotations and heads do not agree.
    """
    if cfg.get('default_scope') == 'mmpretrain':
        from .classification_data import check_classification
        return check_classification(cfg, splits)
    warnings, parsed = [], {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for data in leaves(loader.get('dataset')):
            kind = DATASETS.get(data['type']) if isinstance(
                data['type'], str) else data['type']
            read = _reader(kind)
            if read is None or is_remote(data):
                continue
            where = f'{split}_dataloader'
            classes = _classes(kind, data, where)
            check_heads(cfg.get('model', {}), classes, where)
            key = str(data)  # the validation split is often the test split
            if key not in parsed:
                parsed[key] = read(data, where)
                _check_images(parsed[key], where)
            found = parsed[key]
            _check_classes(found, classes, where, ordered=read is _read_coco)
            evaluators = cfg.get(f'{split}_evaluator') or []
            if isinstance(evaluators, dict):
                evaluators = [evaluators]
            labelled = split == 'train' or not all(
                e.get('format_only') for e in evaluators)
            warnings += _check_filled(found, classes, where, labelled)
            warnings += _check_evaluators(evaluators, found, split)
    return list(dict.fromkeys(warnings))


def leaves(data: Any) -> Iterator[dict]:
    """The configs of the data sets inside wrappers."""
    if isinstance(data, (list, tuple)):
        for part in data:
            yield from leaves(part)
    elif isinstance(data, dict):
        inner = data.get('dataset') or data.get('datasets')
        if inner:
            yield from leaves(inner)
        elif 'type' in data:
            yield data


def _reader(kind: Any) -> Any:
    """What reads the annotations of a data set's class, None if nothing."""
    load = getattr(kind, 'load_data_list', None)
    return {CocoDataset.load_data_list: _read_coco,
            XMLDataset.load_data_list: _read_voc}.get(load)


def is_remote(data: dict) -> bool:
    """Whether a data set is read from elsewhere than a local disk."""
    prefix = data.get('data_prefix') or {}  # a text in mmpretrain
    places = [data.get('data_root'), data.get('ann_file'),
              *(prefix.values() if isinstance(prefix, dict) else [prefix])]
    return bool(data.get('backend_args')) or any(
        '://' in place for place in places if isinstance(place, str))


def _join(data: dict, path: str) -> str:
    return os.path.join(data.get('data_root') or '', path)


def _classes(kind: type, data: dict, where: str) -> list[str]:
    """The class names that a data set is going to use."""
    metainfo = {**kind.METAINFO, **(data.get('metainfo') or {})}
    classes = metainfo.get('classes')
    if isinstance(classes, str):
        if not os.path.isfile(classes):
            raise UserError(
                f"{where}: metainfo.classes is the text '{classes}', a tuple "
                f"is expected; write ('{classes}', ) with a comma")
        with open(classes) as file:
            classes = file.read().splitlines()
    if not classes:
        raise UserError(f'{where}: no class names; set '
                        "dataset.metainfo=dict(classes=('...', ))")
    return list(classes)


def check_heads(model: dict, classes: list[str], where: str,
                path: str = 'model') -> None:
    """Every head must tell apart as many classes as the data has."""
    count = model.get('num_classes')
    names = path.split('.')
    if (isinstance(count, int) and count != len(classes)
            and any(name.endswith('head') for name in names)
            and not {'rpn_head', 'semantic_head'} & set(names)):
        raise UserError(f'{path}.num_classes is {count}, but {where} has '
                        f'{len(classes)} classes ({some(classes)}); set it '
                        f'to {len(classes)}')
    for key, value in model.items():
        parts = enumerate(value) if isinstance(value, (list, tuple)) else [
            (None, value)]
        for number, part in parts:
            if isinstance(part, dict):
                name = key if number is None else f'{key}.{number}'
                check_heads(part, classes, where, f'{path}.{name}')


def some(names: Sequence[str]) -> str:
    """Names for a message: the first ten, and how many more there are."""
    more = f' and {len(names) - 10} more' if len(names) > 10 else ''
    return (', '.join(map(str, names[:10])) or 'none') + more


def _open(path: str, where: str) -> str:
    if not os.path.isfile(path):
        raise UserError(f'{where}: annotation file {path} does not exist; '
                        'check data_root and ann_file')
    with open(path, encoding='utf-8') as file:
        return file.read()


def _read_coco(data: dict, where: str) -> _Annotations:
    """Parse a COCO file and see that mmdet finds what it asks for."""
    path = _join(data, data.get('ann_file', ''))
    try:
        content = json.loads(_open(path, where))
        images, categories = content['images'], content['categories']
        objects = content.get('annotations', [])
        needed = dict(images=(images, ('id', 'file_name', 'width', 'height')),
                      categories=(categories, ('id', 'name')),
                      annotations=(objects, ('id', 'image_id', 'category_id',
                                             'bbox', 'area')))
        for part, (entries, fields) in needed.items():
            for entry in entries:
                for field in fields:
                    if field not in entry:
                        raise UserError(
                            f"{where}: {path}: an entry of '{part}' (id "
                            f"{entry.get('id')}) has no '{field}'; add it")
    except UnicodeDecodeError as error:
        raise UserError(f'{where}: {path}: not a text file; a COCO JSON file '
                        'is expected') from error
    except json.JSONDecodeError as error:
        raise UserError(
            f'{where}: {path}: not valid JSON ({error}); a file that ends '
            'early was not copied in full') from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: {path}: not a COCO file, it needs the "
                        "lists 'images', 'annotations' and 'categories'"
                        ) from error
    for part, entries in (('images', images), ('annotations', objects)):
        if len({entry['id'] for entry in entries}) < len(entries):
            raise UserError(f"{where}: {path}: several {part} have the same "
                            "'id'; number them anew")
    known = {entry['id'] for entry in images}
    for entry in objects:
        if entry['image_id'] not in known:
            raise UserError(
                f"{where}: {path}: annotation {entry['id']} is of image "
                f"{entry['image_id']}, which is not in 'images'; add it or "
                'take the annotation out')
        if not _numbers(entry['bbox'], 4):
            raise UserError(
                f"{where}: {path}: annotation {entry['id']} has bbox "
                f"{entry['bbox']}; write [x, y, width, height]")
    for entry in images:
        if not _numbers([entry['width'], entry['height']], 2):
            raise UserError(
                f"{where}: {path}: image {entry['id']} has width "
                f"{entry['width']!r} and height {entry['height']!r}; write "
                'numbers of pixels')
    names = {entry['id']: entry['name'] for entry in categories}
    folder = _join(data, (data.get('data_prefix') or {}).get('img', ''))
    return _Annotations(
        path, folder,
        [os.path.join(folder, entry['file_name']) for entry in images],
        list(names.values()),
        Counter(names.get(entry['category_id']) for entry in objects))


def _numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(
        isinstance(value, (int, float)) for value in values)


def _read_voc(data: dict, where: str) -> _Annotations:
    """Parse the XML files of a split."""
    path = _join(data, data.get('ann_file', ''))
    root = _join(data, (data.get('data_prefix') or {}).get(
        'sub_data_root', ''))
    folder = os.path.join(root, data.get('img_subdir', 'JPEGImages'))
    labels = os.path.join(root, data.get('ann_subdir', 'Annotations'))
    ids = _open(path, where).splitlines()
    objects = Counter()
    for line, number in enumerate(ids, 1):
        if not number or number != number.strip():
            raise UserError(f'{where}: {path}, line {line}: blank, or blanks '
                            'around the name; take them out')
        file = os.path.join(labels, f'{number}.xml')
        try:
            boxes = ET.parse(file).getroot().findall('object')
            names = [box.find('name').text for box in boxes
                     if box.findtext('difficult', '0').strip() in ('', '0')]
            for box in boxes:
                for corner in ('xmin', 'ymin', 'xmax', 'ymax'):
                    float(box.find('bndbox').find(corner).text)
        except FileNotFoundError as error:
            raise UserError(
                f'{where}: annotation file {file} does not exist, though '
                f'{path} lists {number} (a name without ending); check '
                'ann_subdir and sub_data_root') from error
        except ET.ParseError as error:
            raise UserError(f'{where}: {file}: not valid XML ({error}); '
                            'repair it') from error
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f'{where}: {file}: an object has no name or no bndbox with '
                'xmin, ymin, xmax, ymax; add it') from error
        objects.update(names)
    return _Annotations(
        path, folder, [os.path.join(folder, f'{n}.jpg') for n in ids],
        sorted(objects), objects)


def _check_images(found: _Annotations, where: str) -> None:
    """Every image must be there and have a content."""
    if found.images and not os.path.isdir(found.folder):
        raise UserError(f'{where}: image folder {found.folder} does not '
                        'exist; check data_root and data_prefix')
    missing, empty = [], []
    for file in found.images:
        try:
            if os.stat(file).st_size == 0:
                empty.append(file)
        except OSError:
            missing.append(file)
    for files, what in ((missing, 'are missing'), (empty, 'are empty files')):
        if files:
            raise UserError(
                f'{where}: {len(files)} of {len(found.images)} images that '
                f'{found.file} lists {what}, the first is {files[0]}; check '
                'data_prefix, or take them out of the annotations')


def _check_classes(found: _Annotations, classes: list[str], where: str,
                   ordered: bool) -> None:
    """The config's class names must be those of the annotations.

    COCO categories are numbered by mmdet in the order of the file, with
    those left out that the config does not name. A config that names others,
    or in another order, would give every box a neighbour's name.
    """
    both = f'{found.file} has: {some(found.names)}'
    absent = [name for name in classes if name not in found.names]
    if found.names and len(absent) == len(classes):
        raise UserError(
            f'{where}: no class of the config ({some(classes)}) is in the '
            f'annotations ({both}); set metainfo.classes to these names')
    if not ordered:
        # VOC has no list of classes. One that never occurs beside others
        # that nobody asks for is most likely one of them, misspelt.
        others = [name for name in found.names if name not in classes]
        if absent and others and where.startswith('train'):
            raise UserError(
                f'{where}: no object is called {some(absent)}, but some are '
                f'called {some(others)} ({both}); correct metainfo.classes')
        return
    if absent:
        raise UserError(
            f'{where}: the annotations have no category for {some(absent)} '
            f'({both}); add it to the file or take it out of '
            'metainfo.classes')
    in_file = [name for name in found.names if name in classes]
    if in_file != classes:
        raise UserError(
            f'{where}: mmdet numbers classes in the order of {found.file}; '
            f'write metainfo.classes in it: {tuple(in_file)}')


def _check_filled(found: _Annotations, classes: list[str], where: str,
                  labelled: bool) -> list[str]:
    """A split must have images and, unless it is unlabelled, objects."""
    if not found.images:
        raise UserError(f'{where}: {found.file} lists no images; choose '
                        'another split or fill it')
    if not labelled:
        return []
    unused = [name for name in classes if not found.objects[name]]
    if len(unused) == len(classes):
        raise UserError(
            f'{where}: {found.file} lists {len(found.images)} images, but no '
            f'object of the classes {some(classes)}; annotate them')
    return [f'{where}: {found.file} has no object of the classes '
            f'{some(unused)}'] if unused else []


def _check_evaluators(evaluators: Sequence[dict], found: _Annotations,
                      split: str) -> list[str]:
    """COCO metrics name the annotation file once more."""
    warnings = []
    for evaluator in evaluators:
        path = evaluator.get('ann_file')
        if not path or '://' in path:
            continue
        if not os.path.isfile(path):
            raise UserError(f'{split}_evaluator: annotation file {path} does '
                            'not exist; set ann_file to that of the data set')
        if not os.path.samefile(path, found.file):
            warnings.append(f'{split}_evaluator: ann_file is {path}, but the '
                            f'data set reads {found.file}')
    return warnings
