"""Checks of COCO and VOC data, as mmdet 3.3.0 reads, filters and numbers it.

mmdet fails late and far from the cause: classes that match no annotation end
as "need at least one array to concatenate", a wrong path after an hour as a
missing file. Checking COCO's instances_train2017 takes 10 to 20 seconds.
"""
import json
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from mmdet.datasets import CocoDataset, XMLDataset
from mmdet.registry import DATASETS

from ...utils.errors import UserError
from . import common


class _Annotations(NamedTuple):
    file: str
    image_dir: str
    images: list[str]  # paths
    names: list[str]  # of the categories, in the order of the file
    objects: Counter  # number of objects by category name


def check_detection_data(cfg: dict, splits: Sequence[str]) -> list[str]:
    """Check a detector's data; see :func:`vovnet.engine.checks`."""
    warnings, known = [], {}
    for split in splits:
        where = f'{split}_dataloader'
        evaluators = common.get_evaluators(cfg, split)
        labeled = split == 'train' or not all(
            evaluator.get('format_only') for evaluator in evaluators)
        for data in common.iter_datasets(cfg.get(where)):
            kind = common.get_dataset_class(data, DATASETS)
            read = _READERS.get(getattr(kind, 'load_data_list', None))
            if read is None or common.is_remote(data):
                continue
            with common.name_in_errors(where):
                classes = _get_classes(kind, data)
            common.check_num_classes(cfg.get('model'), classes, where)
            with common.name_in_errors(where):
                key = str(data)  # the validation split is often the test split
                if key not in known:
                    known[key] = read(data)
                found = known[key]
                common.check_images(found.images, found.image_dir, found.file)
                _check_classes(found, classes, read is _read_coco, split)
                if labeled and (unused := _find_unused(found, classes)):
                    warnings.append(f'{where}: {found.file} has no object of '
                                    f'the classes {common.abbreviate(unused)}')
            with common.name_in_errors(f'{split}_evaluator'):
                warnings += [f'{split}_evaluator: {line}' for line in
                             _check_evaluators(evaluators, found.file)]
    return warnings


def _join(data: dict, path: str) -> str:
    return os.path.join(data.get('data_root') or '', path)


def _get_classes(kind: type, data: dict) -> list[str]:
    metainfo = {**kind.METAINFO, **(data.get('metainfo') or {})}
    classes = metainfo.get('classes')
    if isinstance(classes, str):
        if not os.path.isfile(classes):
            raise UserError(
                f"metainfo.classes is the text '{classes}', a tuple is "
                f"expected; write ('{classes}', ) with a comma")
        with open(classes) as file:
            classes = file.read().splitlines()
    if not classes:
        raise UserError('no class names; set '
                        "dataset.metainfo=dict(classes=('...', ))")
    return list(classes)


def _read_coco(data: dict) -> _Annotations:
    path = _join(data, data.get('ann_file', ''))
    try:
        content = json.loads(common.read_annotation_file(path))
        content.setdefault('annotations', [])
        with common.name_in_errors(path):
            _check_coco_entries(content)
    except json.JSONDecodeError as error:
        raise UserError(
            f'{path}: not valid JSON ({error}); a file that ends early was '
            'not copied in full') from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a COCO file, it needs the lists "
                        "'images', 'annotations' and 'categories'") from error
    names = {entry['id']: entry['name'] for entry in content['categories']}
    image_dir = _join(data, (data.get('data_prefix') or {}).get('img', ''))
    images = [os.path.join(image_dir, entry['file_name'])
              for entry in content['images']]
    objects = Counter(names.get(entry['category_id'])
                      for entry in content['annotations'])
    return _Annotations(path, image_dir, images, list(names.values()), objects)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _is_box(value: Any) -> bool:
    return (isinstance(value, list) and len(value) == 4
            and all(map(_is_number, value)))


# Fields that mmdet needs: a test of the value, and what to write.
_ANY = (lambda value: True), 'a value'
_NUMBER = _is_number, 'a number'
_COCO_FIELDS = dict(
    images=dict(id=_ANY, file_name=_ANY, width=_NUMBER, height=_NUMBER),
    categories=dict(id=_ANY, name=_ANY),
    annotations=dict(
        id=_ANY, image_id=_ANY, category_id=_ANY, area=_ANY,
        bbox=(_is_box, '[x, y, width, height]')))


def _check_coco_entries(content: dict) -> None:
    for part, fields in _COCO_FIELDS.items():
        for entry in content[part]:
            for field, (is_valid, wanted) in fields.items():
                if field not in entry or not is_valid(entry[field]):
                    found = repr(entry.get(field, 'missing'))
                    raise UserError(
                        f"an entry of '{part}' (id {entry.get('id')}): "
                        f"'{field}' is {found}; write {wanted}")
    ids = {}
    for part in 'images', 'annotations':
        ids[part] = {entry['id'] for entry in content[part]}
        if len(ids[part]) < len(content[part]):
            raise UserError(f"several {part} have the same 'id'; number them "
                            'anew')
    for entry in content['annotations']:
        if entry['image_id'] not in ids['images']:
            raise UserError(
                f"annotation {entry['id']} is of image {entry['image_id']}, "
                "which is not in 'images'; add it or take the annotation out")


def _read_voc(data: dict) -> _Annotations:
    path = _join(data, data.get('ann_file', ''))
    root = _join(data, (data.get('data_prefix') or {}).get(
        'sub_data_root', ''))
    image_dir = os.path.join(root, data.get('img_subdir', 'JPEGImages'))
    xml_dir = os.path.join(root, data.get('ann_subdir', 'Annotations'))
    names = common.read_annotation_file(path).splitlines()
    objects = Counter()
    for name in names:
        file = os.path.join(xml_dir, f'{name}.xml')
        if not os.path.isfile(file):
            raise UserError(
                f"annotation file {file} does not exist, though {path} lists "
                f"'{name}'; write names without ending or blanks there, or "
                'check ann_subdir and sub_data_root')
        with common.name_in_errors(file):
            objects.update(_read_voc_objects(file))
    images = [os.path.join(image_dir, f'{name}.jpg') for name in names]
    return _Annotations(path, image_dir, images, sorted(objects), objects)


def _read_voc_objects(file: str) -> list[str]:
    """Return the class of each object that is not marked as difficult."""
    try:
        objects = ET.parse(file).getroot().findall('object')
        for entry in objects:
            for corner in ('xmin', 'ymin', 'xmax', 'ymax'):
                float(entry.find('bndbox').find(corner).text)
        return [entry.find('name').text for entry in objects
                if entry.findtext('difficult', '0').strip() in ('', '0')]
    except ET.ParseError as error:
        raise UserError(f'not valid XML ({error}); repair it') from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError('an object has no name or no bndbox with xmin, ymin, '
                        'xmax, ymax; add it') from error


_READERS = {CocoDataset.load_data_list: _read_coco,
            XMLDataset.load_data_list: _read_voc}


def _check_classes(found: _Annotations, classes: list[str], is_coco: bool,
                   split: str) -> None:
    """Check the config's class names against those of the annotations.

    mmdet numbers COCO categories in the order of the file, leaving out those
    that the config does not name: another order would exchange the names.
    VOC has no list of classes. One that never occurs in training, beside
    others that nobody asks for, is most likely one of them, misspelled.
    """
    absent = [name for name in classes if name not in found.names]
    others = [name for name in found.names if name not in classes]
    if absent and (is_coco or others and split == 'train'):
        raise UserError(
            f'the annotations have no class {common.abbreviate(absent)} '
            f'({found.file} has: {common.abbreviate(found.names)}); correct '
            'metainfo.classes or the annotations')
    in_file = [name for name in found.names if name in classes]
    if is_coco and in_file != classes:
        raise UserError(
            f'mmdet numbers classes in the order of {found.file}; write '
            f'metainfo.classes in it: {tuple(in_file)}')


def _find_unused(found: _Annotations, classes: list[str]) -> list[str]:
    """Return the classes without an object; refuse if that is all of them."""
    unused = [name for name in classes if not found.objects[name]]
    if len(unused) == len(classes):
        raise UserError(
            f'{found.file} lists {len(found.images)} images, but no object of '
            f'the classes {common.abbreviate(classes)}; annotate them')
    return unused


def _check_evaluators(evaluators: Sequence[dict], ann_file: str) -> list[str]:
    """Check the annotation file that COCO metrics name once more."""
    warnings = []
    for evaluator in evaluators:
        path = evaluator.get('ann_file')
        if not path or '://' in path:
            continue
        if not os.path.isfile(path):
            raise UserError(f'annotation file {path} does not exist; set '
                            'ann_file to that of the data set')
        if not os.path.samefile(path, ann_file):
            warnings.append(
                f'ann_file is {path}, but the data set reads {ann_file}')
    return warnings
