"""Backbone options that cannot be inferred from weight names.

They follow from the library that named the weights (see the table of
:class:`vovnet.models.VoVNet`), or are saved with the weights.
"""
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models import arch_settings
from ..models.backbones.vovnet import Arch
from ..utils.errors import UserError
from .normalization import Normalization, have_same_mean

OPTIONS = ('stem', 'residual', 'ese', 'pool', 'bottleneck')


class Variant(NamedTuple):
    """Options of VoVNet, eps of its norms and normalization of its images.

    None stands for what is unknown.
    """
    stem: str | None = None
    residual: bool | str | None = None
    ese: str | None = None
    pool: str | None = None
    bottleneck: bool | None = None
    eps: float | None = None
    normalization: Normalization | None = None

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> 'Variant':
        """Read what :meth:`to_dict` or ``VoVNet.get_variant`` returned."""
        known = {k: v for k, v in saved.items() if k in cls._fields}
        if known.get('normalization'):
            mean, std, bgr = known['normalization']
            known['normalization'] = Normalization(
                tuple(mean), tuple(std), bool(bgr))
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return the known options as plain lists and numbers."""
        known = {k: v for k, v in self._asdict().items() if v is not None}
        if self.normalization:
            known['normalization'] = self.normalization.to_list()
        return known


def infer_arch(weights: Mapping[str, Tensor]) -> Arch:
    """Infer an architecture from the weights' names and shapes.

    Stem, residual and ese are left at their defaults.

    Raises:
        UserError: If a stage or a block is incomplete.
    """
    try:
        return _infer_arch(weights)
    except KeyError as error:
        raise UserError(
            f'holds a VoVNet of which {error} is missing; get the whole file'
        ) from error


def _infer_arch(weights: Mapping[str, Tensor]) -> Arch:
    depthwise = 'stem.1.pointwise_conv.conv.weight' in weights
    leaf = 'pointwise_conv.conv' if depthwise else 'conv'
    stem = [weights[f'stem.{name}.weight'].shape[0]
            for name in ('0.conv', f'1.{leaf}', f'2.{leaf}')]
    num_layers_of, num_blocks_of = {}, {}  # by stage
    for key in weights:
        if found := re.match(r'stage(\d)\.block(\d+)\.(?:layers\.(\d+))?',
                             key):
            stage, block = int(found[1]), int(found[2])
            layer = int(found[3] or 0)
            num_blocks_of[stage] = max(block, num_blocks_of.get(stage, 0))
            num_layers_of[stage] = max(layer + 1, num_layers_of.get(stage, 0))
    num_layers = max(num_layers_of.values(), default=0)
    stages = range(2, max(num_blocks_of, default=2) + 1)
    widths, aggregated, inputs = [], [], stem[-1]
    for stage in stages:
        outputs, concatenated = weights[
            f'stage{stage}.block1.aggregation.conv.weight'].shape[:2]
        if num_layers_of[stage] < num_layers:
            raise KeyError(
                f'stage{stage}.block1.layers.{num_layers_of[stage]}')
        widths.append((concatenated - inputs) // num_layers)
        aggregated.append(outputs)
        inputs = outputs
    return Arch(tuple(map(num_blocks_of.get, stages)), num_layers,
                tuple(widths), tuple(aggregated), tuple(stem), depthwise)


def truncate_arch(arch: Arch, num_stages: int) -> Arch:
    """Keep the first stages of an architecture, with its numbers as tuples."""
    return arch._replace(stem_channels=tuple(arch.stem_channels), **{
        field: tuple(getattr(arch, field))[:num_stages]
        for field in ('num_blocks', 'stage_channels', 'aggregated_channels')})


def have_same_structure(a: Arch, b: Arch) -> bool:
    """Tell whether all but the options of two architectures agree."""
    return a[:6] == b[:6]


def find_arch_name(arch: Arch, ese: str | None) -> str | dict:
    """Return VoVNet's value of ``arch``: a name, or a dict if there is none.

    ``ese`` tells V1 from V2 where both have these numbers.
    """
    names = [name for name, known in arch_settings.items()
             if have_same_structure(arch, known)]
    if len(names) > 1:
        version = 'V1' if ese == 'none' else 'V2'
        names = [name for name in names if name.startswith(version)]
    if names:
        return names[0]
    default = Arch((1, ))
    return {field: value for field, value in arch._asdict().items()
            if field == 'num_blocks' or value != getattr(default, field)}


def find_ese(weights: Mapping[str, Tensor], arch: Arch) -> str | None:
    """Tell which blocks have eSE: 'none', 'last', 'all'; None for others."""
    found = {(stage, block) for stage, block in _list_blocks(arch)
             if f'stage{stage}.block{block}.ese.fc.weight' in weights}
    for ese in ('none', 'all', 'last'):
        if found == _list_ese_blocks(arch, ese):
            return ese
    return None


def _list_blocks(arch: Arch) -> list[tuple[int, int]]:
    """List (stage, block), numbered as in the names of weights."""
    return [(stage, block) for stage, num in enumerate(arch.num_blocks, 2)
            for block in range(1, num + 1)]


def _list_ese_blocks(arch: Arch, ese: str) -> set[tuple[int, int]]:
    return {(stage, block) for stage, block in _list_blocks(arch)
            if ese == 'all' or
            ese == 'last' and block == arch.num_blocks[stage - 2]}


def _list_residual_blocks(arch: Arch, residual: bool | str
                          ) -> set[tuple[int, int]]:
    widths = [arch.stem_channels[-1], *arch.aggregated_channels]
    return {(stage, block) for stage, block in _list_blocks(arch)
            if residual and block > 1 or residual == 'same-width'
            and widths[stage - 2] == widths[stage - 1]}


def are_equivalent(option: str, a: Any, b: Any, arch: Arch) -> bool:
    """Tell whether two values of an option build the same network."""
    if option == 'ese':
        return _list_ese_blocks(arch, a) == _list_ese_blocks(arch, b)
    if option == 'residual':
        return _list_residual_blocks(arch, a) == _list_residual_blocks(arch, b)
    return a == b


def add_open_gates(weights: Mapping[str, Tensor], arch: Arch
                   ) -> dict[str, Tensor]:
    """Add eSE without effect to the blocks that have none.

    ``hardsigmoid(0 * x + 3)`` is exactly 1, and its gradient is 0. In training
    weight decay moves the bias below 3, from where the gate learns.
    """
    out = dict(weights)
    for stage, block in _list_blocks(arch):
        prefix = f'stage{stage}.block{block}.'
        like = weights[f'{prefix}aggregation.conv.weight']
        width = like.shape[0]
        out.setdefault(f'{prefix}ese.fc.weight',
                       like.new_zeros(width, width, 1, 1))
        out.setdefault(f'{prefix}ese.fc.bias', like.new_full((width, ), 3))
    return out


def drop_open_gates(weights: Mapping[str, Tensor], arch: Arch
                    ) -> dict[str, Tensor]:
    """Undo :func:`add_open_gates` in all but the last blocks of stages."""
    out = dict(weights)
    for stage, block in _list_blocks(arch):
        prefix = f'stage{stage}.block{block}.ese.fc.'
        if block < arch.num_blocks[stage - 2] and \
                not weights[f'{prefix}weight'].any() and \
                (weights[f'{prefix}bias'] == 3).all():
            del out[f'{prefix}weight'], out[f'{prefix}bias']
    return out


def change_eps(weights: Mapping[str, Tensor], old: float, new: float
               ) -> dict[str, Tensor]:
    """Rescale batch norm so that another eps computes the same.

    This is exact to rounding, also where the variance is smaller than eps.

    Raises:
        UserError: If a batch norm has no weight to rescale.
    """
    out = dict(weights)
    for key, var in weights.items():
        if not key.endswith('.running_var'):
            continue
        name = f'{key.removesuffix("running_var")}weight'
        if name not in weights:
            raise UserError(
                f'has no {name}, which could take up another eps; set '
                f'norm_cfg=dict(..., eps={old}) in the backbone')
        var = var.double()
        ratio = ((var + new) / (var + old)).sqrt()
        # A channel that never varied: its output is its bias.
        ratio[var + old == 0] = 1
        out[name] = (out[name].double() * ratio).to(_widen(out[name].dtype))
    return out


def fold_normalization(weights: Mapping[str, Tensor], trained: Normalization,
                       given: Normalization) -> dict[str, Tensor]:
    """Fold another normalization into the first convolution.

    This is exact for std and the order of channels. It is impossible for the
    mean, as images are padded with zeros after its subtraction.

    Raises:
        UserError: If the means differ.
    """
    if not have_same_mean(trained, given):
        raise UserError(
            f'the mean must be that of the weights, {list(trained.mean)} '
            f'({"BGR" if trained.bgr else "RGB"}), it cannot be folded into '
            f'the stem: trained with {trained}, given {given}')
    is_swapped = trained.bgr != given.bgr
    given_std = given.std[::-1] if is_swapped else given.std
    key = 'stem.0.conv.weight'
    weight = weights[key]
    numerator, denominator = torch.tensor(
        (given_std, trained.std), dtype=torch.double, device=weight.device)
    folded = weight.double() * (numerator / denominator)[:, None, None]
    if is_swapped:
        folded = folded.flip(1)
    return {**weights, key: folded.to(_widen(weight.dtype))}


def _widen(dtype: torch.dtype) -> torch.dtype:
    """At least float32: the result is not exact in half precision."""
    return torch.promote_types(dtype, torch.float32)
