"""Helpers for the checks of detection and classification data."""
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.registry import Registry

from ...utils.errors import UserError


@contextmanager
def name_in_errors(where: str) -> Iterator[None]:
    """Put the name of a setting or file before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{where}: {error}') from error


def iter_datasets(data: Any) -> Iterator[dict]:
    """Iterate over the configs of the data sets inside wrappers."""
    if isinstance(data, dict):
        inner = data.get('dataset') or data.get('datasets')
        if inner:
            yield from iter_datasets(inner)
        elif 'type' in data:
            yield data
    elif data:
        for part in data:
            yield from iter_datasets(part)


def get_dataset_class(data: dict, registry: Registry) -> Any:
    """Return the class of a data set, None if the registry lacks it."""
    kind = data['type']
    return registry.get(kind) if isinstance(kind, str) else kind


def get_evaluators(cfg: dict, split: str) -> list[dict]:
    """Return the configs of a split's metrics."""
    evaluators = cfg.get(f'{split}_evaluator') or []
    return [evaluators] if isinstance(evaluators, dict) else evaluators


def is_remote(data: dict) -> bool:
    """Return whether a data set is read from elsewhere than a local disk."""
    prefix = data.get('data_prefix') or {}  # mmpretrain also takes a string
    places = [data.get('data_root'), data.get('ann_file'),
              *(prefix.values() if isinstance(prefix, dict) else [prefix])]
    return bool(data.get('backend_args')) or any(
        '://' in place for place in places if isinstance(place, str))


def abbreviate(names: Sequence) -> str:
    """List the first ten names, and say how many more there are."""
    more = f' and {len(names) - 10} more' if len(names) > 10 else ''
    return (', '.join(map(str, names[:10])) or 'none') + more


def read_annotation_file(path: str) -> str:
    """Read a text file that a data set names as ``ann_file``."""
    if not os.path.isfile(path):
        raise UserError(f'annotation file {path} does not exist; check '
                        'data_root and ann_file')
    try:
        return Path(path).read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not a text file in UTF-8; save it as such'
                        ) from error


def check_images(images: Sequence[str], folder: str, source: str) -> None:
    """Check that images in a folder, listed in ``source``, have a content."""
    if not images:
        raise UserError(f'{source} lists no images; choose another split or '
                        'fill it')
    if not os.path.isdir(folder):
        raise UserError(f'image folder {folder} does not exist; check '
                        'data_root and data_prefix')
    missing, empty = [], []
    for image in images:
        try:
            if os.stat(image).st_size == 0:
                empty.append(image)
        except OSError:
            missing.append(image)
    for found, fault in (missing, 'are missing'), (empty, 'are empty files'):
        if found:
            raise UserError(
                f'{len(found)} of {len(images)} images that {source} lists '
                f'{fault}, the first is {found[0]}; check data_prefix, or '
                'take them out of the annotations')


def check_num_classes(model: Any, classes: Sequence, where: str,
                      path: str = 'model') -> None:
    """Check that every head has as many classes as the data of ``where``."""
    if isinstance(model, (list, tuple)):
        model = dict(enumerate(model))
    if not isinstance(model, dict):
        return
    count = model.get('num_classes')
    names = path.split('.')
    if (isinstance(count, int) and count != len(classes)
            and any(name.endswith('head') for name in names)
            and not {'rpn_head', 'semantic_head'} & set(names)):
        raise UserError(f'{path}.num_classes is {count}, but {where} has '
                        f'{len(classes)} classes ({abbreviate(classes)}); '
                        f'set it to {len(classes)}')
    for key, part in model.items():
        check_num_classes(part, classes, where, f'{path}.{key}')
