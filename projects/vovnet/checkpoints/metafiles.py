"""Weights by name: those of metafiles, and those that others publish.

Metafiles are OpenMMLab's (``model-index.yml`` with ``Import``), as mim reads
them. ``Metadata`` may also have a file's checksum, as ``SHA256``, and what
configs of this project say in place of its URL (``timm://NAME``), as
``Checkpoint``.
"""
import difflib
import os
from pathlib import Path

import yaml

from ..utils.errors import UserError
from .known_weights import KNOWN_WEIGHTS, KnownWeights

INDEX = str(Path(__file__).parents[1] / '.mim' / 'model-index.yml')


def find_weights(name: str, index: str) -> KnownWeights:
    """Look a name up in all that :func:`list_weights` lists.

    Raises:
        UserError: If there is no such name, with the nearest ones.
    """
    known = list_weights(index)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.3) or list(known)
        raise UserError(f'{name}: no weights of this name; the nearest are '
                        f'{", ".join(near[:3])} (--list shows all)')
    return known[name]


def list_weights(index: str) -> dict[str, KnownWeights]:
    """Return the known weights and those of an index's metafiles, by name."""
    return {**KNOWN_WEIGHTS, **read_metafiles(index)}


def find_checksum(url: str) -> str:
    """Return the checksum of a known URL; empty if there is none."""
    return next((entry.checksum for entry in list_weights(INDEX).values()
                 if entry.url == url and entry.checksum), '')


def read_metafiles(index: str) -> dict[str, KnownWeights]:
    """Return all models of an index that have weights, by name.

    Args:
        index: Path of ``model-index.yml``; without it there are no models.

    Raises:
        UserError: If a metafile is invalid.
    """
    if not os.path.isfile(index):
        return {}
    found = {}
    for _, models in read_index(index):
        for model in models:
            metadata = model.get('Metadata') or {}
            if model.get('Weights'):
                found[model['Name']] = KnownWeights(
                    metadata.get('Checkpoint', model['Weights']),
                    metadata.get('License', 'not stated'),
                    checksum=_read_digest(model['Name'], metadata),
                    format=metadata.get('Weights Format', ''),
                    config=model.get('Config', ''))
    return found


def _read_digest(name: str, metadata: dict) -> str:
    digest = metadata.get('SHA256') or ''
    if not isinstance(digest, str):
        raise UserError(f'SHA256 of {name}: YAML reads it as {digest!r}; put '
                        'it in quotes in the metafile')
    return digest


def read_index(index: str) -> list[tuple[dict, list[dict]]]:
    """Read the metafiles of an index.

    Returns:
        Each collection with its models, in the order of the files. Models
        without a collection come with ``{}``.

    Raises:
        UserError: If a file cannot be read, or a model lacks a name or its
            collection.
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
                    f'{path}: {model["Name"]}: there is no collection '
                    f'{where!r} in this metafile; correct In Collection')
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
        raise UserError(f'{path}: is not a metafile; add Import or Models')
    return content
