"""How well a checkpoint fits a model.

Own work. MMEngine loads with ``strict=False`` and only warns, so that a
checkpoint of another model leaves random weights in place and the evaluation
goes on; here the comparison is made before, and has a verdict.
"""
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..models import VoVNet
from ..utils.errors import UserError
from .key_maps import detect
from .weights import adapt, innermost, named_tensors


class Match(NamedTuple):
    """Names of the tensors of a model and of a checkpoint, compared.

    Attributes:
        loaded: In both, with the same shape.
        missing: Of the model alone; they keep their initial values.
        unexpected: Of the checkpoint alone; they are left out.
        reshaped: In both, but of different shapes; they keep their initial
            values.
    """
    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]

    @property
    def complete(self) -> bool:
        """Whether the model gets every tensor and the file has no others."""
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        def some(names: list[str]) -> str:
            more = f' and {len(names) - 3} more' if len(names) > 3 else ''
            return ': ' + ', '.join(names[:3]) + more if names else ''

        return (f'{len(self.loaded)} tensors loaded, '
                f'{len(self.missing)} missing{some(self.missing)}; '
                f'{len(self.unexpected)} unexpected{some(self.unexpected)}; '
                f'{len(self.reshaped)} of another shape'
                f'{some(self.reshaped)}')


def get_state_dict(checkpoint: Any, name: str = 'checkpoint'
                   ) -> dict[str, Tensor]:
    """The weights in a loaded checkpoint, as MMEngine finds them.

    Args:
        checkpoint: The result of :func:`~vovnet.checkpoints.load_file`.
        name: The file, for the message of an error.

    Returns:
        dict[str, Tensor]: ``checkpoint['state_dict']``, or the checkpoint
        itself if it has none; a leading ``module.`` is taken off the names.
        What modules have saved beside their tensors comes along, and with
        each VoVNet the file's name as 'source'.

    Raises:
        UserError: If there are no named tensors, or they are of a detector of
            detectron2.
    """
    inner = named_tensors(innermost(checkpoint))
    if is_detectron2(inner):
        raise UserError(
            f'{name}: is a detector of detectron2; convert it with '
            'tools/model_converters/detectron2_to_mmdet.py SRC CONFIG DST')
    found = checkpoint
    if isinstance(found, Mapping):
        found = found.get('state_dict', found)
    tensors = named_tensors(found)
    if not tensors:
        holds = (', '.join(map(str, list(found)[:5]))
                 if isinstance(found, Mapping) else type(found).__name__)
        ours = any(scheme.startswith('mmengine') for scheme, _ in
                   detect(inner))
        raise UserError(
            f'{name}: no weights under "state_dict" or at the top (it holds: '
            f'{holds}); ' + ('save them as dict(state_dict=...)' if ours else
                             use_of(inner) or 'convert the file first'))

    def bare(names: Mapping) -> OrderedDict:
        return OrderedDict((re.sub(r'^module(\.|$)', '', key), value)
                           for key, value in names.items())

    state = bare(tensors)
    metadata = bare(getattr(found, '_metadata', {}))
    for _, prefix in detect(state):
        part = prefix.removesuffix('.')
        metadata[part] = dict(metadata.get(part, {}), source=name)
    state._metadata = metadata
    return state


def use_of(tensors: Mapping[str, Tensor]) -> str:
    """What to do with a file of a VoVNet that is not a model's checkpoint.

    Args:
        tensors: All that it holds.

    Returns:
        str: The end of the message of an error; empty if there is no VoVNet.
    """
    found = detect(tensors)
    return found and (
        f'to start from the VoVNet that it holds behind {found[0][1]!r}, give '
        "it to the backbone as init_cfg=dict(type='Pretrained', "
        'checkpoint=...)') or ''


def is_detectron2(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are named as those of a detector of detectron2."""
    return any(key.removeprefix('module.').startswith('proposal_generator.')
               for key in tensors)


def match_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Match:
    """Compare names and shapes without loading anything.

    Args:
        model: The model that is to be filled.
        weights: Tensors by name.

    Returns:
        Match: ``num_batches_tracked``, which torch before 0.4.1 did not
        write and nothing of the forward pass reads, is never missed. A VoVNet
        in other libraries' names counts by its own, which are loaded too.

    Raises:
        UserError: If the weights are of a VoVNet built otherwise.
    """
    own = model.state_dict()
    metadata = getattr(weights, '_metadata', {})
    for name, module in model.named_modules():
        if isinstance(module, VoVNet):
            weights, _ = adapt(module, weights, f'{name}.' if name else '',
                               metadata.get(name, {}))
    both = [key for key in own if key in weights]
    return Match(
        loaded=[k for k in both if own[k].shape == weights[k].shape],
        missing=[k for k in own if k not in weights
                 and not k.endswith('num_batches_tracked')],
        unexpected=[k for k in weights if k not in own],
        reshaped=[k for k in both if own[k].shape != weights[k].shape])


def load_strict(model: nn.Module, weights: Mapping[str, Tensor], name: str,
               hint: str = '') -> None:
    """Fill a model with weights that fit it tensor by tensor.

    Args:
        model: The model.
        weights: Tensors by name.
        name: The file, for the message of an error.
        hint: Added to that message, behind the remedy.

    Raises:
        UserError: If a tensor is missing, unexpected or of another shape.
    """
    found = match_weights(model, weights)
    if not found.complete:
        raise UserError(f'{name}: is of another model ({found}); use the '
                        f'config it was trained with{hint}')
    model.load_state_dict(weights, strict=False)
