"""Comparison of a checkpoint's weights with a model's.

MMEngine loads with ``strict=False`` and only warns, so that a checkpoint of
another model leaves random weights in place and the evaluation goes on.
"""
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..models import VoVNet
from ..utils.errors import UserError
from .key_maps import find_vovnets
from .weights import (
    convert_keys,
    find_state_dict,
    list_content,
    select_tensors,
)


class Comparison(NamedTuple):
    """Names of the tensors of a model and of a checkpoint, compared.

    Attributes:
        loaded: In both, with the same shape.
        missing: In the model only; they keep their initial values.
        unexpected: In the checkpoint only; they are left out.
        reshaped: In both with different shapes; they keep their initial
            values.
    """
    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]

    @property
    def complete(self) -> bool:
        """Whether all tensors of model and checkpoint are loaded."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        def abbreviate(names: list[str]) -> str:
            more = f' and {len(names) - 3} more' if len(names) > 3 else ''
            return ': ' + ', '.join(names[:3]) + more if names else ''

        return (f'{len(self.loaded)} tensors loaded, '
                f'{len(self.missing)} missing{abbreviate(self.missing)}; '
                f'{len(self.unexpected)} unexpected'
                f'{abbreviate(self.unexpected)}; '
                f'{len(self.reshaped)} of another shape'
                f'{abbreviate(self.reshaped)}')


def get_state_dict(checkpoint: Any, name: str = 'checkpoint'
                   ) -> 'OrderedDict[str, Tensor]':
    """Return the weights in a loaded checkpoint where MMEngine finds them.

    A leading ``module.`` is removed from names. The metadata are kept, with
    ``name``, the file for error messages, as 'source' of each VoVNet.

    Raises:
        UserError: If there are no named tensors, or they are of a detector of
            detectron2.
    """
    inner = find_state_dict(checkpoint)
    if is_detectron2(inner):
        raise UserError(
            f'{name}: is a detector of detectron2; convert it with '
            'tools/model_converters/detectron2_to_mmdet.py SRC CONFIG DST')
    found = checkpoint
    if isinstance(found, Mapping):
        found = found.get('state_dict', found)
    tensors = select_tensors(found)
    if not tensors:
        if any(scheme.startswith('mmengine')
               for scheme, _ in find_vovnets(inner)):
            remedy = 'save them as dict(state_dict=...)'
        else:
            remedy = suggest_use(inner) or 'convert the file first'
        raise UserError(
            f'{name}: no weights under "state_dict" or at the top (it holds: '
            f'{list_content(found)}); {remedy}')
    state, metadata = (
        OrderedDict((re.sub(r'^module(\.|$)', '', key), value)
                    for key, value in names.items())
        for names in (tensors, tensors._metadata))
    for _, prefix in find_vovnets(state):
        part = prefix.removesuffix('.')
        metadata[part] = dict(metadata.get(part, {}), source=name)
    state._metadata = metadata
    return state


def suggest_use(tensors: Mapping[str, Tensor]) -> str:
    """Suggest in an error message how to use a VoVNet's weights, if any."""
    found = find_vovnets(tensors)
    if not found:
        return ''
    return (f'to start from the VoVNet that it holds behind {found[0][1]!r}, '
            "give it to the backbone as init_cfg=dict(type='Pretrained', "
            'checkpoint=...)')


def is_detectron2(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether tensors are named as a detector of detectron2."""
    return any(key.removeprefix('module.').startswith('proposal_generator.')
               for key in tensors)


def compare_weights(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
                    ) -> Comparison:
    """Compare the names and shapes of two state dicts.

    ``num_batches_tracked`` is never missing: torch before 0.4.1 did not write
    it, and the forward pass does not read it.
    """
    both = [key for key in own if key in weights]
    return Comparison(
        loaded=[k for k in both if own[k].shape == weights[k].shape],
        missing=[k for k in own if k not in weights
                 and not k.endswith('num_batches_tracked')],
        unexpected=[k for k in weights if k not in own],
        reshaped=[k for k in both if own[k].shape != weights[k].shape])


def match_weights(model: nn.Module, weights: Mapping[str, Tensor]
                  ) -> Comparison:
    """Compare a model with weights, without loading anything.

    A VoVNet in other libraries' names counts by its own, as these are loaded.
    """
    metadata = getattr(weights, '_metadata', {})
    for name, module in model.named_modules():
        if isinstance(module, VoVNet):
            weights, _ = convert_keys(module, weights, name and f'{name}.',
                                      metadata.get(name, {}))
    return compare_weights(model.state_dict(), weights)


def load_strict(model: nn.Module, weights: Mapping[str, Tensor], name: str,
                hint: str = '') -> None:
    """Fill a model with weights that fit it tensor by tensor.

    Args:
        model: The model.
        weights: Tensors by name.
        name: The file, for error messages.
        hint: Appended to the message where they do not fit.
    """
    found = match_weights(model, weights)
    if not found.complete:
        raise UserError(f'{name}: is of another model ({found}); use the '
                        f'config it was trained with{hint}')
    model.load_state_dict(weights, strict=False)
