"""Weights by name: those of the metafiles, and those that others publish.

Own work on OpenMMLab's model index (``model-index.yml`` with ``Import``, and
metafiles with ``Models: [{Name, Weights, Metadata}]``), which mim reads too.
``Metadata`` may have a file's checksum, as ``SHA256``, and as ``Checkpoint``
what a config of this project says in place of its address (``timm://NAME``).
"""
import difflib
import os
from pathlib import Path

import yaml

from ..utils.errors import UserError
from .known_weights import PUBLISHED, Published

INDEX = str(Path(__file__).parents[1] / '.mim' / 'model-index.yml')


def find_weights(name: str, index: str) -> Published:
    """Look a name up.

    Args:
        name: A key of :data:`~vovnet.checkpoints.known_weights.PUBLISHED`, or the
            name of a model in a metafile.
        index: Path of ``model-index.yml``; may be missing.

    Returns:
        Published: Address and checksum.

    Raises:
        UserError: If there is no such name, with the nearest ones.
    """
    known = all_weights(index)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.3) or list(known)
        raise UserError(f'{name}: no weights of this name; the nearest are '
                        f'{", ".join(near[:3])} (--list shows all)')
    return known[name]


def all_weights(index: str) -> dict[str, Published]:
    """Those that others publish and those of an index's metafiles, by name.

    Args:
        index: As for :func:`read_metafiles`.
    """
    return {**PUBLISHED, **read_metafiles(index)}


def checksum_of(url: str) -> str:
    """What is known of a file by its address, whoever asks for it.

    Args:
        url: As in :data:`~vovnet.checkpoints.known_weights.PUBLISHED`, or as
            ``Weights`` in a metafile of this project.

    Returns:
        str: As for :func:`~vovnet.checkpoints.fetch`; empty if unknown.
    """
    return next((entry.checksum for entry in all_weights(INDEX).values()
                 if entry.url == url and entry.checksum), '')


def read_metafiles(index: str) -> dict[str, Published]:
    """All models with weights that the metafiles of an index name.

    Args:
        index: Path of ``model-index.yml``; without it there are none.

    Returns:
        dict[str, Published]: By name.

    Raises:
        UserError: If a file is not as OpenMMLab has it.
    """
    if not os.path.isfile(index):
        return {}
    found = {}
    for _, models in read_index(index):
        for model in models:
            metadata = model.get('Metadata') or {}
            if model.get('Weights'):
                found[model['Name']] = Published(
                    metadata.get('Checkpoint', model['Weights']),
                    metadata.get('License', 'not stated'),
                    checksum=_digest(model['Name'], metadata),
                    format=metadata.get('Weights Format', ''),
                    config=model.get('Config', ''))
    return found


def _digest(name: str, metadata: dict) -> str:
    digest = metadata.get('SHA256') or ''
    if not isinstance(digest, str):  # YAML takes digits for a number
        raise UserError(f'SHA256 of {name}: is read as {digest!r}; put it in '
                        'quotes in its metafile')
    return digest


def read_index(index: str) -> list[tuple[dict, list[dict]]]:
    """Everything in the metafiles of an index.

    Args:
        index: Path of ``model-index.yml``.

    Returns:
        list[tuple[dict, list[dict]]]: Each collection and the models in it,
        in the order of the files. Models of no collection come with ``{}``.

    Raises:
        UserError: If a file cannot be read, or a model has no name or is in a
            collection that its metafile does not have.
    """
    out = []
    for file in _read(index).get('Import') or ():
        path = os.path.join(os.path.dirname(index), file)
        content = _read(path)
        collections = {entry.get('Name'): (entry, [])
                       for entry in content.get('Collections') or ()}
        for model in content.get('Models') or ():
            if not model.get('Name'):
                raise UserError(f'{path}: a model has no Name; give it one')
            where = model.get('In Collection')
            if where is None:
                collections.setdefault(None, ({}, []))
            elif where not in collections:
                raise UserError(
                    f'{path}: {model["Name"]} is in the collection {where!r}, '
                    'which is not there; correct In Collection')
            collections[where][1].append(model)
        out += collections.values()
    return out


def _read(path: str) -> dict:
    try:
        with open(path, encoding='utf-8') as file:
            content = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f'{path}: cannot be read '
                        f'({str(error).splitlines()[0]}); correct it'
                        ) from error
    if not isinstance(content, dict):
        raise UserError(f'{path}: is no metafile; it needs Import or Models')
    return content
