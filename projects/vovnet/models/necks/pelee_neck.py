"""Pelee's extra scales and residual prediction blocks.

Sources: Wang et al., arXiv:1804.06882, section 3 and Figure 4;
``feature_extractor.py`` and ``layer_utils.py`` of
Robert-JunWang/Pelee@033dfd6, where the extra scales have biases and no norms.
"""
from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import CAFFE_XAVIER_INIT

# Middle channels, stride and padding of the extra scales.
EXTRAS = ((256, 2, 1), (128, 1, 0), (128, 1, 0))


class ResidualPrediction(nn.Module):
    """A bottleneck block with a projection, before the predictors."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict,
                 act_cfg: dict) -> None:
        super().__init__()
        half = out_channels // 2
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        linear = dict(norm_cfg=norm_cfg, act_cfg=None)
        self.project = ConvModule(in_channels, out_channels, 1, **linear)
        self.learn = nn.Sequential(
            ConvModule(in_channels, half, 1, **cfg),
            ConvModule(half, half, 3, padding=1, **cfg),
            ConvModule(half, out_channels, 1, **linear))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        return (self.project(x) + self.learn(x)).relu()


@MODELS.register_module()
class PeleeNeck(BaseModule):
    """Three extra scales, and a residual block on every scale.

    The largest map is returned twice, for two sets of priors: Pelee has none
    of stride 8.

    Args:
        in_channels: Channels of the backbone's outputs.
        out_channels: Channels of all extra scales and outputs.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
        init_cfg: Caffe's xavier by default.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (512, 704),
        out_channels: int = 256,
        norm_cfg: dict = dict(type='BN', eps=1e-3),  # noqa: B006
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or [*CAFFE_XAVIER_INIT])
        channels = list(in_channels)
        self.extras = nn.ModuleList()
        for width, stride, padding in EXTRAS:
            self.extras.append(nn.Sequential(
                ConvModule(channels[-1], width, 1, act_cfg=act_cfg),
                ConvModule(width, out_channels, 3, stride, padding,
                           act_cfg=act_cfg)))
            channels.append(out_channels)
        self.blocks = nn.ModuleList(
            ResidualPrediction(c, out_channels, norm_cfg, act_cfg)
            for c in channels)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compute all scales from maps (N, in_channels[i], H_i, W_i).

        Returns:
            Maps (N, out_channels, H_i, W_i), of which the first comes twice.

        Raises:
            ValueError: The maps are too small for the extra scales.
        """
        height, width = inputs[-1].shape[-2:]
        if min(height, width) < 9:
            raise ValueError(
                f'PeleeNeck: maps of {height}x{width} px are too small for '
                'three more scales; give images of 257 px at least')
        scales = list(inputs)
        for extra in self.extras:
            scales.append(extra(scales[-1]))
        first, *others = (
            block(scale) for block, scale in zip(self.blocks, scales))
        return first, first, *others
