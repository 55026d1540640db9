"""Writing weights for others, in this project's names or another library's."""
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
from .compare import get_state_dict
from .key_maps import choose_own_scheme, map_keys
from .known_weights import get_default_normalization
from .normalization import Normalization, have_same_mean
from .safe_load import NOTE, load_file
from .variant import (
    add_open_gates,
    are_equivalent,
    change_eps,
    drop_open_gates,
    find_ese,
    fold_normalization,
)
from .weights import (
    Weights,
    get_default_variant,
    prefix_errors,
    read_weights,
)

# What the converter offers: a naming scheme and a prefix.
TARGETS = dict(
    mmengine=('mmengine', ''), mmpretrain=('mmengine', 'backbone.'),
    timm=('timm', ''), authors=('authors', ''),
    detectron2=('authors', 'backbone.bottom_up.'),
    mmdet3d=('authors', 'img_backbone.'),
    **{name: (name, '') for name in (
        'pytorchcv', 'vision-toolbox', 'vision-toolbox-2022')})


def publish(source: str, target: str) -> str:
    """Write only the metadata and weights of a checkpoint.

    As OpenMMLab's ``publish_model.py`` does, it puts eight digits of the
    file's SHA-256 before the ending, which torch.hub and mim check.

    Returns:
        The path written: ``target`` with the digits.
    """
    _check_file(target)
    checkpoint = load_file(source)
    get_state_dict(checkpoint, f'checkpoint {source}')  # refuse others
    found = checkpoint.get('state_dict', checkpoint)
    meta = checkpoint.get('meta') if found is not checkpoint else None
    content = _serialize(dict(meta=meta or {}, state_dict=found))
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
            state_dict}`` and tells what the weights assume; in others' a bare
            state dict, as those libraries expect.
        to: A key of :data:`TARGETS`; 'mmpretrain' gives a whole classifier.
        prefix: As for ``read_weights``.
        images: As for :func:`export_weights`.

    Returns:
        What was read, and how many tensors were written.
    """
    weights = read_weights(source, prefix)
    with prefix_errors(source):
        state = (export_classifier(weights) if to == 'mmpretrain' else
                 export_weights(weights, *TARGETS[to], images))
    ours = TARGETS[to][0] == 'mmengine'
    save_weights(state, target, dict(
        arch=weights.arch, source=os.path.basename(source),
        scheme=weights.scheme) if ours else None)
    return weights, len(state)


def export_weights(weights: Weights, scheme: str, prefix: str = '',
                   images: str | None = None) -> 'OrderedDict[str, Tensor]':
    """Name weights as another library does.

    Args:
        weights: Result of ``read_weights``.
        scheme: A key of ``SCHEMES``.
        prefix: Put before each name.
        images: Where users of such files normalize otherwise than the weights
            expect: 'fold' the difference into the stem, or 'keep' the weights
            as they are.

    Returns:
        A state dict. In this project's names it carries the variant along.

    Raises:
        UserError: If the library's network computes something else, has no
            name for a tensor, or takes other images and ``images`` is None.
    """
    state, variant = weights.state_dict, weights.variant
    given = get_default_normalization(scheme, prefix, weights.arch,
                                      variant.ese)
    if images == 'fold' and not (variant.normalization and given):
        who = ('users of these names' if variant.normalization else
               'the weights')
        raise UserError('--images fold: nothing says which images '
                        f'{who} want; leave it out')
    if scheme == 'mmengine':
        state = OrderedDict((prefix + k, v) for k, v in state.items())
        state._metadata = {
            prefix[:-1]: dict(version=1, dialect=variant.to_dict())}
        return state
    if variant.stem is None:
        raise UserError(
            'nothing says with which stem, residual and pool these weights '
            'were trained, so they cannot be given to another library; load '
            'them into their backbone and save its state dict')
    state = _fit_to_library(weights, scheme, prefix)
    state = _fit_to_images(state, variant.normalization, given, images)
    names = map_keys(state, choose_own_scheme(state), scheme)
    if unnamed := [k for k in state if not names.get(k)]:
        raise UserError(f'{scheme} has no name for {len(unnamed)} of the '
                        f'tensors, such as {unnamed[0]!r}')
    return OrderedDict((prefix + names[k], v) for k, v in state.items())


def _fit_to_library(weights: Weights, scheme: str, prefix: str
                    ) -> Mapping[str, Tensor]:
    """Make weights fit another library's network, or refuse."""
    state, structure, variant = weights[:3]
    theirs = get_default_variant(scheme, prefix, variant.ese)
    if scheme.startswith(('authors', 'vision-toolbox')) and (
            variant.ese == 'last' or prefix and variant.ese == 'none'):
        # Their networks have eSE in all blocks; V1's, which have none, are
        # not among those that detectron2's and mmdet3d's users build.
        state = add_open_gates(state, structure)
    if scheme == 'timm' and variant.ese == 'all':
        state = drop_open_gates(state, structure)
        if find_ese(state, structure) != 'last' and not are_equivalent(
                'ese', 'all', 'last', structure):
            raise UserError(
                'timm has eSE in the last block of each stage only, these '
                'weights have it in all; no file in its names can say that')
    for option in ('stem', 'residual', 'pool'):
        mine, other = getattr(variant, option), getattr(theirs, option)
        if not are_equivalent(option, mine, other, structure):
            raise UserError(
                f"the network of {scheme} has {option}={other!r}, these "
                f'weights are for {option}={mine!r}; no file in its names can '
                'say that')
    if variant.eps is not None and variant.eps != theirs.eps:
        state = change_eps(state, variant.eps, theirs.eps)
    return state


def _fit_to_images(state: Mapping[str, Tensor],
                   expected: Normalization | None,
                   given: Normalization | None, images: str | None
                   ) -> Mapping[str, Tensor]:
    """Make weights fit the images of another library's users, or refuse."""
    if images == 'keep' or not (expected and given) or expected.agrees(given):
        return state
    if images == 'fold':
        return fold_normalization(state, expected, given)
    fold = ('--images fold, which puts the difference into the stem, or '
            if have_same_mean(expected, given) else '')
    raise UserError(
        f'the weights want {expected}, but files in these names are taken for '
        f'{given}; say {fold}--images keep, and normalize as the weights want')


def export_classifier(weights: Weights) -> 'OrderedDict[str, Tensor]':
    """Name weights as mmpretrain's classifier with a ``LinearClsHead``."""
    head, backbone = {}, {}
    for key, value in weights.state_dict.items():
        (head if key.startswith('head.') else backbone)[key] = value
    if not head:
        raise UserError('holds a backbone without a classifier; convert it '
                        "--to mmengine, which init_cfg=dict(type='Pretrained')"
                        ' takes')
    state = export_weights(weights._replace(state_dict=backbone), 'mmengine',
                           'backbone.')
    state.update(head)
    return state


def save_weights(state_dict: Mapping[str, Tensor], path: str,
                 meta: Mapping[str, Any] | None = None) -> None:
    """Write weights completely or not at all.

    Args:
        state_dict: Tensors by name.
        path: The new file; ``.safetensors`` gives that format, anything else
            torch's.
        meta: Written beside the weights, as ``{meta, state_dict}``; None
            gives the bare state dict.
    """
    if path.endswith('.safetensors'):
        from safetensors.torch import save
        note = {} if meta is None else {
            NOTE: json.dumps([meta, getattr(state_dict, '_metadata', {})])}
        content = save(dict(_copy(state_dict)), {'format': 'pt', **note})
    elif meta is None:
        content = _serialize(state_dict)
    else:
        content = _serialize(dict(meta=dict(meta), state_dict=state_dict))
    _write(content, path)


def _serialize(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(_copy(value), buffer)
    return buffer.getvalue()


def _copy(value: Any) -> Any:
    """Copy tensors, as torch.save writes all of the storage of a part."""
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, OrderedDict):
        out = OrderedDict((k, _copy(v)) for k, v in value.items())
        out.__dict__.update(value.__dict__)  # _metadata of a state dict
        return out
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return value


def _write(content: bytes, path: str) -> None:
    _check_file(path)
    WholeFileBackend().put(content, path)


def _check_file(path: str) -> None:
    if not os.path.basename(path) or os.path.isdir(path):
        raise UserError(f'{path}: is a folder; name a file')
