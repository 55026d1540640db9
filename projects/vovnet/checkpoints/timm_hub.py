"""timm's weights by name: ``timm://ese_vovnet39b.ra_in1k``.

They lie in the cache of huggingface_hub (``$HF_HOME``), which timm shares.
"""
import os
import re
import shutil
import tempfile
from typing import Any

from ..utils.errors import UserError
from .download import find_mismatch
from .safe_load import load_download

FILES = ('model.safetensors', 'pytorch_model.bin')
# The tags that timm gives to a name without one (timm/models/vovnet.py).
TAGS = dict(ese_vovnet19b_dw='ra_in1k', ese_vovnet39b='ra_in1k',
            ese_vovnet57b='ra4_e3600_r256_in1k')
UNTRAINED = ('vovnet39a', 'vovnet57a', 'ese_vovnet19b_slim_dw',
             'ese_vovnet19b_slim', 'ese_vovnet19b', 'ese_vovnet99b',
             'eca_vovnet39b', 'ese_vovnet39b_evos')


def find_timm_file(name: str) -> str:
    """Return the path of a timm model's weights; download them if needed.

    The name may have a tag, as in ``ese_vovnet39b.ra_in1k``.

    Raises:
        UserError: If there are no such weights or they cannot be downloaded.
    """
    try:
        from huggingface_hub import (
            get_hf_file_metadata,
            hf_hub_download,
            hf_hub_url,
        )
        from huggingface_hub.errors import RemoteEntryNotFoundError
    except ImportError as error:
        raise UserError(f'checkpoint timm://{name}: needs huggingface_hub; '
                        'pip install huggingface_hub') from error
    if name in UNTRAINED:
        trained = ', '.join(f'{k}.{v}' for k, v in TAGS.items())
        raise UserError(f'checkpoint timm://{name}: timm has never published '
                        f'weights of this network; choose from {trained}')
    name = f'{name}.{TAGS[name]}' if name in TAGS else name
    repo = f'timm/{name}'
    for file in FILES:
        try:
            return hf_hub_download(repo, file, local_files_only=True)
        except (OSError, ValueError):
            continue
    for file in FILES:
        try:
            # One request without hf_hub_download's five logged retries.
            get_hf_file_metadata(hf_hub_url(repo, file))
            return hf_hub_download(repo, file)
        except Exception as error:  # of whichever HTTP library the hub uses
            reason = ' '.join(str(error).split())[:100]
            if not isinstance(error, RemoteEntryNotFoundError):
                break  # no network or no such model
    raise UserError(
        f'checkpoint timm://{name}: not in the cache and cannot be '
        f'downloaded ({reason}); check the name and the connection, or '
        f'get https://huggingface.co/timm/{name} elsewhere and give the path '
        'of its model.safetensors')


def load_from_timm(filename: str, map_location: Any = None) -> Any:
    """Load ``timm://NAME``: MMEngine's loader of that scheme.

    Raises:
        UserError: If the weights cannot be downloaded or are damaged; a
            damaged file is removed from the cache.
    """
    path = find_timm_file(filename.removeprefix('timm://'))
    return load_download(path, filename, map_location, _find_digest(path))


def _find_digest(path: str) -> str:
    """Return the SHA-256 that names large files in the cache, or ''."""
    name = os.path.basename(os.path.realpath(path))
    return name if re.fullmatch('[0-9a-f]{64}', name) else ''


def copy_from_timm(name: str, folder: str) -> str:
    """Copy a timm model's weights into a folder; return the copy's path.

    Raises:
        UserError: As :func:`load_from_timm` does, or if the copy is damaged.
    """
    load_from_timm(f'timm://{name}')
    source = find_timm_file(name)
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, name + os.path.splitext(source)[1])
    with tempfile.TemporaryDirectory(dir=folder) as part_folder:
        part = os.path.join(part_folder, os.path.basename(target))
        shutil.copyfile(source, part)
        if reason := find_mismatch(part, _find_digest(source)):
            raise UserError(f'{target}: {reason}; copy it again')
        os.replace(part, target)
    return target
