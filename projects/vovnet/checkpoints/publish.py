"""Files to give away, in this project's names or others'.

Own work; the naming of published files is OpenMMLab's (mmdet 3.3.0,
``tools/model_converters/publish_model.py``): eight digits of SHA-256 before
the ending, which torch.hub and mim check.
"""
import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..utils.atomic_file import WholeFileBackend
from ..utils.errors import UserError
from .classifier import to_classifier
from .compare import get_state_dict
from .safe_load import NOTE, load_file
from .weights import Weights, export_weights, read_weights

# What the converter offers: a naming scheme, and what to put before it.
TARGETS = dict(
    mmengine=('mmengine', ''), mmpretrain=('mmengine', 'backbone.'),
    timm=('timm', ''), authors=('authors', ''),
    detectron2=('authors', 'backbone.bottom_up.'),
    mmdet3d=('authors', 'img_backbone.'),
    **{name: (name, '') for name in (
        'pytorchcv', 'vision-toolbox', 'vision-toolbox-2022')})


def publish(source: str, target: str) -> str:
    """Reduce a checkpoint to what others need.

    Args:
        source: A checkpoint of MMEngine.
        target: Path of the new file; the digits are put before its ending.

    Returns:
        str: The path written: ``{meta, state_dict}``, tensors on the CPU.

    Raises:
        UserError: If the source cannot be read or holds no weights.
        OSError: If the file cannot be written; nothing of it is left.
    """
    _check_file(target)
    checkpoint = load_file(source)
    get_state_dict(checkpoint, f'checkpoint {source}')  # is there any?
    found = checkpoint.get('state_dict', checkpoint)
    meta = checkpoint.get('meta') if found is not checkpoint else None
    content = _bytes(dict(meta=meta or {}, state_dict=found))
    stem, ending = os.path.splitext(target)
    if ending not in ('.pth', '.pt'):
        stem, ending = target, '.pth'
    path = f'{stem}-{hashlib.sha256(content).hexdigest()[:8]}{ending}'
    _write(content, path)
    return path


def convert(source: str, target: str, to: str = 'mmengine',
            prefix: str | None = None, images: str | None = None
            ) -> tuple[Weights, int]:
    """Write a VoVNet's weights in the names of a library.

    Args:
        source: As for :func:`~vovnet.checkpoints.read_weights`.
        target: The new file. In this project's names it is ``{meta,
            state_dict}`` and says what the weights assume; in others' a bare
            state dict, as those libraries expect.
        to: A key of :data:`TARGETS`; 'mmpretrain' gives a whole classifier.
        prefix: As for ``read_weights``.
        images: As for :func:`~vovnet.checkpoints.export_weights`.

    Returns:
        tuple[Weights, int]: What was read, and how many tensors were
        written: for gates that another library lacks there are more.

    Raises:
        UserError: If the source cannot be read, or the library's network
            computes something else or takes other images.
        OSError: If the file cannot be written; nothing of it is left.
    """
    weights = read_weights(source, prefix)
    try:
        state = (to_classifier(weights) if to == 'mmpretrain' else
                 export_weights(weights, *TARGETS[to], images))
    except UserError as error:
        raise UserError(f'{source}: {error}') from error
    ours = TARGETS[to][0] == 'mmengine'
    save_weights(state, target, dict(
        arch=weights.arch, source=os.path.basename(source),
        scheme=weights.scheme) if ours else None)
    return weights, len(state)


def save_weights(state_dict: Mapping[str, Tensor], path: str,
                 meta: Mapping[str, Any] | None = None) -> None:
    """Write weights whole or not at all.

    Args:
        state_dict: Tensors by name.
        path: The new file. ``.safetensors`` gives that format, anything else
            torch's.
        meta: Put beside the weights, as ``{meta, state_dict}``; without it
            the file is the bare state dict.

    Raises:
        OSError: If the file cannot be written; nothing of it is left.
    """
    if path.endswith('.safetensors'):
        from safetensors.torch import save
        note = {} if meta is None else {
            NOTE: json.dumps([meta, getattr(state_dict, '_metadata', {})])}
        content = save(dict(_compact(state_dict)), {'format': 'pt', **note})
    elif meta is None:
        content = _bytes(state_dict)
    else:
        content = _bytes(dict(meta=dict(meta), state_dict=state_dict))
    _write(content, path)


def _bytes(value: Any) -> bytes:
    """What torch.save writes, every tensor without its neighbours."""
    buffer = io.BytesIO()
    torch.save(_compact(value), buffer)
    return buffer.getvalue()


def _compact(value: Any) -> Any:
    """Copy tensors that are a part of something larger."""
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, OrderedDict):
        out = OrderedDict((k, _compact(v)) for k, v in value.items())
        out.__dict__.update(value.__dict__)  # _metadata of a state dict
        return out
    if isinstance(value, dict):
        return {k: _compact(v) for k, v in value.items()}
    return value


def _write(content: bytes, path: str) -> None:
    _check_file(path)
    WholeFileBackend().put(content, path)


def _check_file(path: str) -> None:
    if not os.path.basename(path) or os.path.isdir(path):
        raise UserError(f'{path}: is a folder; name a file')
