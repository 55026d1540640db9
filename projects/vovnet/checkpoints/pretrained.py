"""``init_cfg=dict(type='Pretrained')`` of VoVNet."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor

from ..models import VoVNet
from ..utils.errors import UserError
from .compare import compare_weights
from .normalization import Normalization, WeightSource
from .variant import fold_normalization
from .weights import fit_to_model, prefix_errors, read_weights


@WEIGHT_INITIALIZERS.register_module()
@dataclass
class PretrainedVoVNet:
    """Initializer of :class:`vovnet.models.VoVNet` from any library's weights.

    MMEngine's own only warns about names that do not match, and a backbone
    silently keeps its random weights. Here a missing tensor is an error.

    Args:
        checkpoint: A file in any naming scheme, a URL, or ``timm://NAME``.
        prefix: Prefix of the backbone's names in the file; None finds it if
            the file holds one VoVNet.
        map_location: As for ``torch.load``.
        data_preprocessor: That of the detector (mean, std, bgr_to_rgb). The
            difference to what the weights were trained with, in std and in the
            order of channels, is folded into the first convolution. Without
            it :func:`~vovnet.checkpoints.check_normalization` refuses such a
            difference.
        trained_with: Normalization of the weights (mean, std, bgr_to_rgb),
            where the file does not tell it, or tells a wrong one.
    """
    checkpoint: str
    prefix: str | None = None
    map_location: Any = 'cpu'
    data_preprocessor: Mapping | None = None
    trained_with: Mapping | None = None

    def __call__(self, module: VoVNet) -> None:
        """Load the weights and log which of them were used."""
        source = self.checkpoint
        logger = MMLogger.get_current_instance()
        with prefix_errors('VoVNet'):
            weights = read_weights(source, self.prefix, self.map_location)
        with prefix_errors(f'VoVNet: {source}'):
            if self.trained_with is not None:
                variant = weights.variant._replace(
                    normalization=Normalization.from_config(
                        self.trained_with, 'trained_with'))
                weights = weights._replace(variant=variant)
            logger.info(f'VoVNet: {source}: {weights}')
            state = fit_to_model(module, weights)
            expected = weights.variant.normalization
            if self.data_preprocessor is not None:
                state, expected = self._fold(state, expected)
            report = _load(module, state, source)
        module.weight_source = WeightSource(source, expected, is_foldable=True)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, report)

    def _fold(self, state: Mapping[str, Tensor],
              trained: Normalization | None
              ) -> tuple[dict[str, Tensor], Normalization]:
        if trained is None:
            raise UserError(
                'nothing says how the images were normalized, so that '
                'data_preprocessor cannot be folded in; say so in init_cfg, '
                'as trained_with=dict(mean=..., std=..., bgr_to_rgb=...)')
        given = Normalization.from_config(self.data_preprocessor)
        return fold_normalization(state, trained, given), given


def _load(module: VoVNet, state: Mapping[str, Tensor], source: str) -> str:
    """Fill the backbone; every tensor of it must be there."""
    own = module.state_dict()
    found = compare_weights(own, state)
    missing, unexpected, loaded = (
        # A count that the forward pass does not read, and old files lack.
        [key for key in keys if not key.endswith('num_batches_tracked')]
        for keys in (found.missing + found.reshaped, found.unexpected,
                     found.loaded))
    if missing:
        first = missing[0]
        problem = (f'is {tuple(state[first].shape)} in the file and '
                   f'{tuple(own[first].shape)} in the backbone'
                   if first in state else 'is not in the file')
        raise UserError(
            f'{len(missing)} of {len(missing) + len(loaded)} tensors of the '
            f'backbone are missing or of another shape: {first} {problem}; '
            'get the whole file, or correct in_channels, norm_cfg or arch')
    with torch.no_grad():
        for key in found.loaded:
            own[key].copy_(state[key])
    report = (f'VoVNet: {len(loaded)} tensors loaded from {source}, '
              f'0 missing, {len(unexpected)} unexpected')
    logger = MMLogger.get_current_instance()
    # A backbone has no use for a classifier; nothing is wrong without it.
    has_others = any(not key.startswith('head.') for key in unexpected)
    names = ', '.join(unexpected[:3]) + ', ...' * (len(unexpected) > 3)
    (logger.warning if has_others else logger.info)(
        f'{report}: {names}' if names else report)
    return report
