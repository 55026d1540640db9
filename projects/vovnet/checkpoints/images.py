"""Whether a model normalises images as its backbone's weights want.

Own work. How a model normalises was read in mmengine 0.10.7
(``model/base_model/data_preprocessor.py``), mmpretrain 1.2.0
(``models/utils/data_preprocessor.py``) and mmsegmentation 1.2.2
(``models/data_preprocessor.py``), whose names differ in the channels' order.
"""
from typing import NamedTuple

from torch import nn

from ..errors import UserError
from ..models import VoVNet
from .dialect import Normalization, same_means

_TO_RGB = ('_channel_conversion', 'channel_conversion', 'to_rgb')


class Origin(NamedTuple):
    """Where a backbone's weights come from; its attribute ``origin``.

    Attributes:
        source: The file, for the message of an error.
        normalization: Of the images that they want.
    """
    source: str
    normalization: Normalization


def remember(module: VoVNet, source: str, normalization: Normalization | None
             ) -> None:
    """Note at a backbone how its weights want the images, or that nobody
    knows."""
    module.origin = normalization and Origin(source, normalization)


def check_images(model: nn.Module) -> None:
    """Compare how a model normalises with what its weights were trained on.

    Args:
        model: With its weights. Its data preprocessor has mean and std; where
            there is none, a pipeline does it and nothing is compared.

    Raises:
        UserError: If they differ: the outputs would be wrong without a sign.
    """
    preprocessors = [m for m in model.modules()
                     if getattr(m, '_enable_normalize', False)]
    for module in model.modules():
        origin = getattr(module, 'origin', None)
        if not isinstance(module, VoVNet) or not origin:
            continue
        for preprocessor in preprocessors:
            _compare(origin, preprocessor)


def _compare(origin: Origin, preprocessor: nn.Module) -> None:
    wanted, given = origin.normalization, _normalization(preprocessor)
    if wanted.agrees(given):
        return
    fold = ('fold the difference into the stem with init_cfg=dict(..., '
            f'{given})' if same_means(wanted, given) else
            'take other weights (another mean cannot be folded into the stem)')
    text = (f'VoVNet: {origin.source}: wants {wanted}, the model has {given}; '
            f'set the former in the model, or {fold}, or, if you know better, '
            'say init_cfg=dict(..., data_preprocessor=False)')
    raise UserError(text.replace('bgr_to_rgb', 'to_rgb')
                    if hasattr(preprocessor, 'to_rgb') else text)


def _normalization(preprocessor: nn.Module) -> Normalization:
    mean, std = (tuple(round(value, 4) for value in buffer.flatten().tolist())
                 for buffer in (preprocessor.mean, preprocessor.std))
    to_rgb = any(getattr(preprocessor, name, False) for name in _TO_RGB)
    return Normalization(mean, std, not to_rgb)
