"""How a backbone takes weights: what MMEngine calls by name.

Own work on MMEngine's registries (mmengine 0.10.7,
``model/weight_init.py:PretrainedInit``). ``vovnet.models`` imports none of
its siblings; it asks the registries for what is registered here.
"""
from collections.abc import Mapping
from typing import Any

from mmengine.logging import MMLogger
from mmengine.model.weight_init import update_init_info
from mmengine.registry import FUNCTIONS, WEIGHT_INITIALIZERS
from torch import Tensor

from ..models import VoVNet
from ..utils.errors import UserError
from .compare import match_weights
from .normalization import remember
from .variant import Normalization, fold_normalization
from .weights import adapt, fit, read_weights, spoken_by


@WEIGHT_INITIALIZERS.register_module()
class PretrainedVoVNet:
    """``init_cfg=dict(type='Pretrained')`` of :class:`vovnet.models.VoVNet`.

    MMEngine's own only warns about names that do not match, and a backbone
    that silently keeps its random weights is the field's most common
    complaint. Here a tensor that is missing is an error.

    Args:
        checkpoint: A file in any naming scheme, an address, ``timm://NAME``.
        prefix: What stands before the backbone's names in the file; found by
            itself if there is one VoVNet in it.
        map_location: As for ``torch.load``.
        data_preprocessor: That of the detector (mean, std, bgr_to_rgb). If it
            is given, and the weights were trained with another std or order
            of channels, the difference is folded into the first convolution.
            Without it :func:`~vovnet.checkpoints.check_normalization` refuses such a
            difference.
        trained_with: How the images of the weights were normalised (mean,
            std, bgr_to_rgb), where the file does not tell, or tells wrong.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None,
                 map_location: Any = 'cpu',
                 data_preprocessor: Mapping | None = None,
                 trained_with: Mapping | None = None) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location
        self.data_preprocessor = data_preprocessor
        self.trained_with = trained_with

    def __call__(self, module: VoVNet) -> None:
        """Load the weights and say what of them was used.

        Args:
            module: The backbone.

        Raises:
            UserError: If they cannot be read, are of another network, or a
                tensor is missing.
        """
        source = self.checkpoint
        logger = MMLogger.get_current_instance()
        try:
            weights = read_weights(source, self.prefix, self.map_location)
            if self.trained_with is not None:
                weights = weights._replace(dialect=weights.dialect._replace(
                    normalization=Normalization.of(
                        self.trained_with, 'trained_with')))
        except UserError as error:
            raise UserError(f'VoVNet: {error}') from error
        logger.info(f'VoVNet: {source}: {weights}')
        state = fit(module, weights.state_dict, weights.dialect, source)
        wanted = weights.dialect.normalization
        if self.data_preprocessor is not None:
            state, wanted = self._fold(state, wanted)
        report = _load(module, state, source)
        remember(module, source, wanted, foldable=True)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, report)

    def _fold(self, state: Mapping[str, Tensor],
              trained: Normalization | None
              ) -> tuple[dict[str, Tensor], Normalization]:
        if trained is None:
            raise UserError(
                f'VoVNet: {self.checkpoint}: nothing says how the images were '
                'normalised, so that data_preprocessor cannot be folded in; '
                'say so in init_cfg, as trained_with=dict(mean=..., std=..., '
                'bgr_to_rgb=...)')
        try:
            given = Normalization.of(self.data_preprocessor)
            return fold_normalization(state, trained, given), given
        except UserError as error:
            raise UserError(f'VoVNet: {self.checkpoint}: {error}') from error


def _load(module: VoVNet, state: Mapping[str, Tensor], source: str) -> str:
    """Fill the backbone; every tensor of it must be there."""
    found = match_weights(module, state)
    missing, unexpected, loaded = (
        # A count that the forward pass does not read, and old files lack.
        [k for k in keys if not k.endswith('num_batches_tracked')]
        for keys in (found.missing + found.reshaped, found.unexpected,
                     found.loaded))
    report = (f'VoVNet: {len(loaded)} tensors loaded from {source}, '
              f'{len(missing)} missing, {len(unexpected)} unexpected')
    if missing:
        own = module.state_dict()
        first = missing[0]
        what = (f'is {tuple(state[first].shape)} in the file and '
                f'{tuple(own[first].shape)} in the backbone'
                if first in state else 'is not in the file')
        raise UserError(
            f'VoVNet: {source}: {len(missing)} of {len(missing) + len(loaded)}'
            f' tensors of the backbone are missing or of another shape: '
            f'{first} {what}; get the whole file, or correct in_channels, '
            'norm_cfg or arch')
    module.load_state_dict(
        {k: v for k, v in state.items() if k in set(found.loaded)},
        strict=False)
    logger = MMLogger.get_current_instance()
    if unexpected:
        logger.warning(f'{report}: {", ".join(unexpected[:3])}'
                       f'{", ..." if len(unexpected) > 3 else ""}')
    else:
        logger.info(report)
    return report


@FUNCTIONS.register_module()
def dialect_of_vovnet(module: VoVNet) -> dict[str, Any]:
    """What a backbone saves beside its tensors.

    Args:
        module: The backbone.

    Returns:
        dict[str, Any]: As :class:`~vovnet.checkpoints.Dialect` reads it.
    """
    return spoken_by(module).to_dict()


@FUNCTIONS.register_module()
def read_into_vovnet(module: VoVNet, state_dict: dict[str, Tensor],
                     prefix: str, metadata: Mapping) -> None:
    """Let ``load_state_dict``, of a whole detector too, know other names.

    MMEngine's ``load_from`` ends here. mmdet3d's checkpoints have the
    authors' names.

    Args:
        module: The backbone that is being filled.
        state_dict: What it is filled from; changed in place.
        prefix: Where in the detector the backbone is, as 'backbone.'.
        metadata: What VoVNet has saved beside its tensors.

    Raises:
        UserError: If the weights are of a network built otherwise.
    """
    if not any(key.startswith(prefix) for key in state_dict):
        return  # the weights stay what they are, and from where
    ready, normalization = adapt(module, state_dict, prefix, metadata)
    state_dict.clear()
    state_dict.update(ready)
    remember(module, metadata.get('source', 'its state dict'), normalization)
