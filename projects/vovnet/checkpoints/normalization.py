"""Image normalization: what weights expect, and what a model does.

The attributes in ``_TO_RGB`` are those of mmengine 0.10.7, mmpretrain 1.2.0
and mmsegmentation 1.2.2, which name the order of channels differently.
"""
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import nn

from ..models import VoVNet
from ..utils.errors import UserError

_TO_RGB = ('_channel_conversion', 'channel_conversion', 'to_rgb')


class Normalization(NamedTuple):
    """Normalization of images before they enter a network.

    Attributes:
        mean: Subtracted from pixels of 0..255, one number per channel in the
            order in which the network sees them.
        std: Divisors in the same order.
        bgr: Whether that order is BGR.
    """
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    @classmethod
    def from_config(cls, cfg: Mapping, name: str = 'data_preprocessor'
                    ) -> 'Normalization':
        """Read a data preprocessor's config; errors call it ``name``."""
        given = dict(cfg) if isinstance(cfg, Mapping) else {}
        try:
            mean, std = (tuple(map(float, given[key]))
                         for key in ('mean', 'std'))
        except (KeyError, TypeError, ValueError):
            mean = std = ()
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise UserError(
                f'{name}={given or cfg}: needs mean and std, one number for '
                'each channel (of std a positive one), and bgr_to_rgb where '
                'it is True')
        # mmcv reads BGR, and mmpretrain says `to_rgb`; all swap channels.
        return cls(mean, std, not any(map(
            given.get, ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb'))))

    @classmethod
    def from_preprocessor(cls, preprocessor: nn.Module) -> 'Normalization':
        """Read a data preprocessor that normalizes."""
        mean, std = (
            tuple(round(value, 4) for value in buffer.flatten().tolist())
            for buffer in (preprocessor.mean, preprocessor.std))
        return cls(mean, std, not any(
            getattr(preprocessor, name, False) for name in _TO_RGB))

    def to_list(self) -> list:
        """Return what can be saved without naming this class."""
        return [list(self.mean), list(self.std), self.bgr]

    def agrees(self, other: 'Normalization') -> bool:
        """Tell whether two normalizations are interchangeable.

        ImageNet's mean of blue is written 103.53, 102.98 and 104: means may
        differ by 1.5 of 255 gray levels, deviations by 1 %.
        """
        return (self.bgr == other.bgr
                and _is_close(other.mean, self.mean, atol=1.5)
                and _is_close(other.std, self.std, rtol=0.01))

    def __str__(self) -> str:
        return (f'data_preprocessor=dict(mean={list(self.mean)}, '
                f'std={list(self.std)}, bgr_to_rgb={not self.bgr})')


def _is_close(a: tuple[float, ...], b: tuple[float, ...], atol: float = 0.,
              rtol: float = 0.) -> bool:
    """Compare by channel; a single number counts for all channels."""
    comparable = len(a) == len(b) or 1 in (len(a), len(b))
    return comparable and np.allclose(a, b, rtol, atol)


def have_same_mean(a: Normalization, b: Normalization) -> bool:
    """Tell whether the means agree, apart from the order of channels."""
    step = 1 if a.bgr == b.bgr else -1
    return len(a.mean) == len(b.mean) and np.allclose(
        a.mean, b.mean[::step], rtol=0, atol=1e-2)


class WeightSource(NamedTuple):
    """Origin of a backbone's weights, its attribute ``weight_source``.

    Attributes:
        name: The file, for error messages.
        normalization: Expected by the weights; None if unknown.
        is_foldable: Whether ``init_cfg`` loaded them, which can fold another
            normalization into them.
    """
    name: str
    normalization: Normalization | None
    is_foldable: bool = False


def check_normalization(model: nn.Module) -> None:
    """Refuse a model that normalizes otherwise than its weights expect.

    Nothing is compared where a pipeline normalizes, not a data preprocessor.
    """
    for backbone in _find_backbones(model):
        source = backbone.weight_source
        if source and source.normalization:
            for preprocessor in _find_preprocessors(model):
                _compare(source, preprocessor)


def record_normalization(model: nn.Module) -> None:
    """Record, for its checkpoints, on which images a model is trained.

    Nothing is recorded where several data preprocessors differ.
    """
    given = {Normalization.from_preprocessor(module)
             for module in _find_preprocessors(model)}
    if len(given) == 1:
        for backbone in _find_backbones(model):
            backbone.weight_source = WeightSource('the training', *given)


def _find_backbones(model: nn.Module) -> list[VoVNet]:
    return [m for m in model.modules() if isinstance(m, VoVNet)]


def _find_preprocessors(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules()
            if getattr(m, '_enable_normalize', False)]


def _compare(source: WeightSource, preprocessor: nn.Module) -> None:
    expected = source.normalization
    given = Normalization.from_preprocessor(preprocessor)
    if expected.agrees(given):
        return
    if not source.is_foldable:
        remedy = 'set the former in the model'
    elif have_same_mean(expected, given):
        remedy = ('set the former in the model, or fold the difference into '
                  f'the stem with init_cfg=dict(..., {given})')
    else:
        remedy = ('set the former in the model, or take other weights '
                  '(another mean cannot be folded into the stem)')
    text = (f'VoVNet: {source.name}: expects {expected}, the model has '
            f'{given}; {remedy}; more in docs/weights.md')
    raise UserError(text.replace('bgr_to_rgb', 'to_rgb')
                    if hasattr(preprocessor, 'to_rgb') else text)
