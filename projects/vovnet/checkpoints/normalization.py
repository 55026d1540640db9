"""Whether a model normalises images as its backbone's weights want.

Own work. How a model normalises was read in mmengine 0.10.7
(``model/base_model/data_preprocessor.py``), mmpretrain 1.2.0
(``models/utils/data_preprocessor.py``) and mmsegmentation 1.2.2
(``models/data_preprocessor.py``), whose names differ in the channels' order.
"""
from typing import NamedTuple

from torch import nn

from ..models import VoVNet
from ..utils.errors import UserError
from .variant import Normalization, same_means

_TO_RGB = ('_channel_conversion', 'channel_conversion', 'to_rgb')


class Origin(NamedTuple):
    """Where a backbone's weights come from; its attribute ``origin``.

    Attributes:
        source: The file, for the message of an error.
        normalization: Of the images that they want.
        foldable: Whether ``init_cfg`` loaded them, which can fold another
            normalisation into them.
    """
    source: str
    normalization: Normalization
    foldable: bool = False


def remember(module: VoVNet, source: str, normalization: Normalization | None,
             foldable: bool = False) -> None:
    """Note at a backbone how its weights want the images, or that nobody
    knows."""
    module.origin = normalization and Origin(source, normalization, foldable)


def wanted_images(module: VoVNet) -> Normalization | None:
    """How a backbone's weights want the images; None if nobody knows."""
    origin = getattr(module, 'origin', None)
    return origin and origin.normalization


def check_normalization(model: nn.Module) -> None:
    """Compare how a model normalises with what its weights were trained on.

    Args:
        model: With its weights. Its data preprocessor has mean and std; where
            there is none, a pipeline does it and nothing is compared.

    Raises:
        UserError: If they differ: the outputs would be wrong without a sign.
    """
    for module in _backbones(model):
        if wanted_images(module):
            for preprocessor in _preprocessors(model):
                _compare(module.origin, preprocessor)


def record_normalization(model: nn.Module) -> None:
    """Note at a model's backbones that they are trained on its images.

    Their checkpoints then say so.

    Args:
        model: As for :func:`check_normalization`. Where its preprocessors differ
            among themselves, nothing is noted.
    """
    given = {given_images(module) for module in _preprocessors(model)}
    for module in _backbones(model):
        if len(given) == 1:
            remember(module, 'the training', *given)


def _backbones(model: nn.Module) -> list[VoVNet]:
    return [m for m in model.modules() if isinstance(m, VoVNet)]


def _preprocessors(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules()
            if getattr(m, '_enable_normalize', False)]


def _compare(origin: Origin, preprocessor: nn.Module) -> None:
    wanted, given = origin.normalization, given_images(preprocessor)
    if wanted.agrees(given):
        return
    ways = ['set the former in the model']
    if not same_means(wanted, given):
        ways.append('take other weights (another mean cannot be folded into '
                    'the stem)')
    elif origin.foldable:
        ways.append('fold the difference into the stem with init_cfg='
                    f'dict(..., {given})')
    if origin.foldable:
        ways.append('correct what is known of the weights with init_cfg='
                    'dict(..., trained_with=dict(mean=..., std=..., '
                    'bgr_to_rgb=...))')
    text = (f'VoVNet: {origin.source}: wants {wanted}, the model has {given}; '
            f'{", or ".join(ways)}, or, to go on all the same, set '
            'check_images=False in the config')
    raise UserError(text.replace('bgr_to_rgb', 'to_rgb')
                    if hasattr(preprocessor, 'to_rgb') else text)


def given_images(preprocessor: nn.Module) -> Normalization:
    """What a data preprocessor, one that normalises, makes of images."""
    mean, std = (tuple(round(value, 4) for value in buffer.flatten().tolist())
                 for buffer in (preprocessor.mean, preprocessor.std))
    to_rgb = any(getattr(preprocessor, name, False) for name in _TO_RGB)
    return Normalization(mean, std, not to_rgb)
