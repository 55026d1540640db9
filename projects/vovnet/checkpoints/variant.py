"""What a VoVNet's weights assume and their names do not tell.

Own work; the differences between the libraries were read in their code (see
:mod:`.schemes`) and are in the table of :class:`vovnet.models.VoVNet`.
maskrcnn-benchmark's frozen batch norm has no eps
(``maskrcnn_benchmark/layers/batch_norm.py``).
"""
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models import arch_settings
from ..models.backbones.vovnet import Arch
from ..utils.errors import UserError


class Normalization(NamedTuple):
    """What was done to the images.

    Attributes:
        mean: Subtracted from pixels of 0..255, one number per channel in the
            order in which the network sees them.
        std: What they were divided by.
        bgr: Whether that order is BGR.
    """
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    @classmethod
    def of(cls, cfg: Mapping, name: str = 'data_preprocessor'
           ) -> 'Normalization':
        """Read a config of mmdet's ``DetDataPreprocessor``.

        Args:
            cfg: Has ``mean`` and ``std`` and, if images are turned from BGR,
                in which mmcv reads them, to RGB, ``bgr_to_rgb=True``
                (mmpretrain's name for it is ``to_rgb``).
            name: What it is called, for the message of an error.

        Raises:
            UserError: Unless mean and std have as many numbers.
        """
        given = dict(cfg) if isinstance(cfg, Mapping) else {}
        try:
            mean, std = (tuple(map(float, given[key]))
                         for key in ('mean', 'std'))
        except (KeyError, TypeError, ValueError):
            mean = std = ()
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise UserError(
                f'{name}={given or cfg}: needs mean and std (positive), a '
                'number for each channel, and bgr_to_rgb where it is True')
        # Whatever it is called, the channels of mmcv's BGR images are turned.
        return cls(mean, std, not any(map(
            given.get, ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb'))))

    def agrees(self, other: 'Normalization') -> bool:
        """Whether a network takes images of one for those of the other.

        ImageNet's mean of blue is written 103.53, 102.98 and 104: means may
        differ by 1.5 of 255 grey levels, deviations by a hundredth.
        """
        return self.bgr == other.bgr and all(
            abs(a - b) <= 1.5 for a, b in _pairs(self.mean, other.mean)
        ) and all(abs(a - b) <= 0.01 * a
                  for a, b in _pairs(self.std, other.std))

    def __str__(self) -> str:
        return (f'data_preprocessor=dict(mean={list(self.mean)}, '
                f'std={list(self.std)}, bgr_to_rgb={not self.bgr})')


def _pairs(a: Sequence[float], b: Sequence[float]
           ) -> Iterator[tuple[float, float]]:
    """Numbers of two lists, channel by channel; one serves all channels."""
    channels = max(len(a), len(b))
    return zip(*(values * channels if len(values) == 1 else values
                 for values in (a, b)))


def same_means(a: Normalization, b: Normalization) -> bool:
    """Whether the means agree, whichever order the channels have."""
    return len(a.mean) == len(b.mean) and all(
        abs(x - y) <= 1e-2
        for x, y in zip(a.mean, b.mean[::1 if a.bgr == b.bgr else -1]))


class Dialect(NamedTuple):
    """Options of a backbone, as its weights were trained; None if unknown.

    Attributes:
        stem: As in :class:`vovnet.models.VoVNet`.
        residual: As there.
        ese: As there.
        pool: As there.
        bottleneck: As there.
        eps: Of batch norm.
        normalization: Of the images.
    """
    stem: str | None = None
    residual: bool | str | None = None
    ese: str | None = None
    pool: str | None = None
    bottleneck: bool | None = None
    eps: float | None = None
    normalization: Normalization | None = None

    @classmethod
    def of(cls, saved: Mapping) -> 'Dialect':
        """Read what :meth:`to_dict` wrote, or VoVNet beside its tensors."""
        known = {k: v for k, v in saved.items() if k in cls._fields}
        if known.get('normalization'):
            mean, std, bgr = known['normalization']
            known['normalization'] = Normalization(
                tuple(mean), tuple(std), bool(bgr))
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, without what is unknown."""
        out = {k: v for k, v in self._asdict().items() if v is not None}
        if self.normalization:
            mean, std, bgr = self.normalization
            out['normalization'] = [list(mean), list(std), bgr]
        return out


OPTIONS = ('stem', 'residual', 'ese', 'pool', 'bottleneck')


def structure(weights: Mapping[str, Tensor]) -> Arch:
    """Read the numbers of an architecture off its weights.

    Args:
        weights: Tensors of a VoVNet, in this project's names.

    Returns:
        Arch: Its tuples have one number per stage that has weights. Stem,
        residual and eSE are left at their defaults.

    Raises:
        UserError: If a stage or a block is not whole.
    """
    try:
        return _structure(weights)
    except KeyError as error:
        raise UserError(
            f'a VoVNet of which {error} is missing; get the whole file'
        ) from error


def _structure(weights: Mapping[str, Tensor]) -> Arch:
    depthwise = 'stem.1.pointwise_conv.conv.weight' in weights
    stem = [weights['stem.0.conv.weight'].shape[0]]
    for i in (1, 2):
        leaf = 'pointwise_conv.conv' if depthwise else 'conv'
        stem.append(weights[f'stem.{i}.{leaf}.weight'].shape[0])
    layers, blocks = {}, {}
    for key in weights:
        if found := re.match(r'stage(\d)\.block(\d+)\.(?:layers\.(\d+))?',
                             key):
            stage, block = int(found[1]), int(found[2])
            blocks[stage] = max(block, blocks.get(stage, 0))
            layers[stage] = max(int(found[3] or 0) + 1, layers.get(stage, 0))
    num_layers = max(layers.values(), default=0)
    stages = range(2, max(blocks, default=2) + 1)
    widths, aggregated, inputs = [], [], stem[-1]
    for stage in stages:
        out, concatenated = weights[
            f'stage{stage}.block1.aggregation.conv.weight'].shape[:2]
        if layers[stage] < num_layers:
            raise KeyError(f'stage{stage}.block1.layers.{layers[stage]}')
        widths.append((concatenated - inputs) // num_layers)
        aggregated.append(inputs := out)
    return Arch(tuple(map(blocks.get, stages)), num_layers, tuple(widths),
                tuple(aggregated), tuple(stem), depthwise)


def cut(arch: Arch, stages: int) -> Arch:
    """The same architecture with its first stages only."""
    return arch._replace(**{
        field: tuple(getattr(arch, field))[:stages]
        for field in ('num_blocks', 'stage_channels', 'aggregated_channels')})


def same_structure(a: Arch, b: Arch) -> bool:
    """Whether all numbers agree; options do not count."""
    return all(_plain(getattr(a, field)) == _plain(getattr(b, field))
               for field in Arch._fields[:6])


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) else value


def arch_name(arch: Arch, ese: str | None) -> str | dict:
    """The value of ``arch`` that builds such a network.

    Args:
        arch: As :func:`structure` returns it.
        ese: Tells V1 from V2 where both have these numbers.

    Returns:
        str | dict: A name of ``arch_settings``; a dict if there is none.
    """
    names = [name for name, spec in arch_settings.items()
             if same_structure(arch, spec)]
    if len(names) > 1:
        names = [n for n in names if n.startswith(
            'V1' if ese == 'none' else 'V2')]
    plain = Arch((1, ))
    return names[0] if names else {
        field: value for field, value in arch._asdict().items()
        if field == 'num_blocks' or value != getattr(plain, field)}


def ese_of(weights: Mapping[str, Tensor], arch: Arch) -> str | None:
    """Where eSE sits: 'none', 'last', 'all', or None for anything else."""
    has = {(stage, block) for stage, block in _blocks(arch)
           if f'stage{stage}.block{block}.ese.fc.weight' in weights}
    return next((ese for ese in ('none', 'all', 'last')
                 if has == ese_blocks(arch, ese)), None)


def _blocks(arch: Arch) -> list[tuple[int, int]]:
    """(stage, block) of every block, counted as in their names."""
    return [(stage, block) for stage, num in enumerate(arch.num_blocks, 2)
            for block in range(1, num + 1)]


def ese_blocks(arch: Arch, ese: str) -> set[tuple[int, int]]:
    """(stage, block) of the blocks with eSE."""
    return {(stage, block) for stage, block in _blocks(arch)
            if ese == 'all' or
            ese == 'last' and block == arch.num_blocks[stage - 2]}


def residual_blocks(arch: Arch, residual: bool | str
                    ) -> set[tuple[int, int]]:
    """(stage, block) of the blocks with an identity connection."""
    widths = [arch.stem_channels[-1], *arch.aggregated_channels]
    return {(stage, block) for stage, block in _blocks(arch)
            if residual and block > 1 or residual == 'same-width'
            and widths[stage - 2] == widths[stage - 1]}


def same_option(option: str, a: Any, b: Any, arch: Arch) -> bool:
    """Whether two values of an option give the same network."""
    if option == 'ese':
        return ese_blocks(arch, a) == ese_blocks(arch, b)
    if option == 'residual':
        return residual_blocks(arch, a) == residual_blocks(arch, b)
    return a == b


def add_open_gates(weights: Mapping[str, Tensor], arch: Arch
                   ) -> dict[str, Tensor]:
    """Give eSE to the blocks that have none, without any effect.

    ``hardsigmoid(0 * x + 3)`` is exactly 1, and its gradient is 0. In training
    it is weight decay that moves a bias below 3, from where the gate learns.

    Args:
        weights: Tensors in this project's names.
        arch: Their architecture.

    Returns:
        dict[str, Tensor]: With ``fc.weight`` 0 and ``fc.bias`` 3 added.
    """
    out = dict(weights)
    for stage, block in _blocks(arch):
        begin = f'stage{stage}.block{block}.'
        like = weights[f'{begin}aggregation.conv.weight']
        width = like.shape[0]
        out.setdefault(f'{begin}ese.fc.weight',
                       like.new_zeros(width, width, 1, 1))
        out.setdefault(f'{begin}ese.fc.bias', like.new_full((width, ), 3))
    return out


def without_open_gates(weights: Mapping[str, Tensor], arch: Arch
                       ) -> dict[str, Tensor]:
    """Undo :func:`add_open_gates`: drop eSE without effect from blocks that
    are not the last of their stage.
    """
    out = dict(weights)
    for stage, block in ese_blocks(arch, 'all') - ese_blocks(arch, 'last'):
        begin = f'stage{stage}.block{block}.ese.fc.'
        if not weights[f'{begin}weight'].any() and \
                (weights[f'{begin}bias'] == 3).all():
            del out[f'{begin}weight'], out[f'{begin}bias']
    return out


def change_eps(weights: Mapping[str, Tensor], eps: float, new: float
               ) -> dict[str, Tensor]:
    """Make batch norm with another eps compute the same.

    The scale takes the ratio of the two deviations, which is exact to
    rounding also where the variance is smaller than eps.

    Args:
        weights: Tensors in this project's names.
        eps: That of the weights.
        new: That of the network they are going into.

    Returns:
        dict[str, Tensor]: With other ``bn.weight``.

    Raises:
        UserError: If there is none.
    """
    out = dict(weights)
    for key, var in weights.items():
        if key.endswith('.running_var'):
            name = f'{key.removesuffix("running_var")}weight'
            if name not in weights:
                raise UserError(
                    f'has no {name}, which could take up another eps; set '
                    f'norm_cfg=dict(..., eps={eps}) in the backbone')
            var = var.double()
            ratio = ((var + new) / (var + eps)).sqrt()
            # A channel that never varied: its output is its bias.
            ratio[var + eps == 0] = 1
            out[name] = (out[name].double() * ratio).to(_whole(out[name]))
    return out


def fold_normalization(weights: Mapping[str, Tensor], trained: Normalization,
                       given: Normalization) -> dict[str, Tensor]:
    """Let a network read images that are normalised otherwise.

    1/std and the order of the channels go into the first convolution, which
    is exact. The mean cannot: images are padded with zeros after it has been
    subtracted.

    Args:
        weights: Tensors in this project's names.
        trained: What the weights were trained with.
        given: What the images are going to have.

    Returns:
        dict[str, Tensor]: With another ``stem.0.conv.weight``.

    Raises:
        UserError: If the means differ.
    """
    step = -1 if trained.bgr != given.bgr else 1
    std = given.std[::step]
    if not same_means(trained, given):
        raise UserError(
            f'the mean must be that of the weights, {list(trained.mean)} '
            f'({"BGR" if trained.bgr else "RGB"}), it cannot be folded into '
            f'the stem: trained with {trained}, given {given}')
    first = weights['stem.0.conv.weight']
    std, trained_std = torch.tensor(
        (std, trained.std), dtype=torch.double, device=first.device)
    ratio = std / trained_std
    folded = first.double() * ratio[:, None, None]
    return {**weights, 'stem.0.conv.weight':
            (folded.flip(1) if step < 0 else folded).to(_whole(first))}


def _whole(weight: Tensor) -> torch.dtype:
    """A weight's type, but not half: its precision is not enough for what is
    exact in another."""
    return torch.promote_types(weight.dtype, torch.float32)
