"""timm's weights by name: ``timm://ese_vovnet39b.ra_in1k``.

Own work on huggingface_hub, whose cache (``$HF_HOME``) timm shares.
"""
import os
import re
import shutil
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader

from ..utils.errors import UserError
from .download import mismatch
from .safe_load import load_file

FILES = ('model.safetensors', 'pytorch_model.bin')
# The tags that timm gives to a name without one (timm/models/vovnet.py).
TAGS = dict(ese_vovnet19b_dw='ra_in1k', ese_vovnet39b='ra_in1k',
            ese_vovnet57b='ra4_e3600_r256_in1k')
UNTRAINED = ('vovnet39a', 'vovnet57a', 'ese_vovnet19b_slim_dw',
             'ese_vovnet19b_slim', 'ese_vovnet19b', 'ese_vovnet99b',
             'eca_vovnet39b', 'ese_vovnet39b_evos')


def timm_file(name: str) -> str:
    """Find the weights of a timm model, in the cache first.

    Args:
        name: As timm has it, with or without a tag.

    Returns:
        str: The path of a file.

    Raises:
        UserError: If there are no such weights or they cannot be had.
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
        known = ', '.join(f'{k}.{v}' for k, v in TAGS.items())
        raise UserError(f'checkpoint timm://{name}: timm has never published '
                        f'weights of this network, but of {known}')
    name = f'{name}.{TAGS[name]}' if name in TAGS else name
    repo = f'timm/{name}'
    for file in FILES:
        try:
            return hf_hub_download(repo, file, local_files_only=True)
        except (OSError, ValueError):
            continue
    for file in FILES:
        try:
            # One question without the download's five retries, each of which
            # the hub's log tells of.
            get_hf_file_metadata(hf_hub_url(repo, file))
            return hf_hub_download(repo, file)
        except Exception as error:  # of whichever HTTP library the hub uses
            reason = ' '.join(str(error).split())[:100]
            if not isinstance(error, RemoteEntryNotFoundError):
                break  # no network or no such name: the same for any file
    raise UserError(
        f'checkpoint timm://{name}: not in the cache and cannot be '
        f'downloaded ({reason}); check the name and the connection, or '
        f'get https://huggingface.co/timm/{name} elsewhere and give the path '
        'of its model.safetensors')


@CheckpointLoader.register_scheme(prefixes='timm://', force=True)
def load_from_timm(filename: str, map_location: Any = None) -> Any:
    """MMEngine's loader of ``timm://NAME``.

    Raises:
        UserError: If the weights cannot be had or are damaged; a damaged file
            is removed from the cache.
    """
    path = timm_file(filename.removeprefix('timm://'))
    content = os.path.realpath(path)
    try:
        if (digest := published_digest(path)) and (
                reason := mismatch(content, digest)):
            raise UserError(f'checkpoint {filename}: {reason}')
        return load_file(path, map_location, filename)
    except UserError as error:
        for damaged in {path, content}:
            os.remove(damaged)
        raise UserError(f'{error}; it has been removed from the cache'
                        ) from error


def published_digest(path: str) -> str:
    """The SHA-256 by which huggingface_hub names large files, or nothing.

    Args:
        path: A file in its cache.
    """
    name = os.path.basename(os.path.realpath(path))
    return name if re.fullmatch('[0-9a-f]{64}', name) else ''


def copy_from_timm(name: str, folder: str) -> str:
    """Put a timm model's weights into a folder, whole and checked.

    Args:
        name: As for :func:`timm_file`.
        folder: Made if it is not there.

    Returns:
        str: The path of the copy.

    Raises:
        UserError: If the weights cannot be had, or they or the copy are
            damaged; nothing of such a copy is left.
    """
    source = timm_file(name)
    load_from_timm(f'timm://{name}')
    os.makedirs(folder, exist_ok=True)
    target = os.path.join(folder, name + os.path.splitext(source)[1])
    part = f'{target}.{os.getpid()}.part'
    try:
        shutil.copyfile(source, part)
        if reason := mismatch(part, published_digest(source)):
            raise UserError(f'{target}: {reason}; copy it again')
        os.replace(part, target)
    finally:
        if os.path.exists(part):
            os.remove(part)
    return target
