"""The backbone of DSOD, a DenseNet that is trained from scratch.

Sources: Shen et al., arXiv:1708.01241, Table 1; ``DSOD300_V3_Body`` in
``model_libs.py`` of szq0214/DSOD@bbb6f0f. The growth rate is 48 in DSOD300
(DS/64-192-48-1) and 16 in the "smallest" one (DS/64-64-16-1), which is
DenseNet-67 in arXiv:1904.09730. Max-pools are 2x2 and round up, as Caffe's.
"""
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import CAFFE_XAVIER_INIT, build_preact_conv

STEM_CHANNELS = (64, 64, 128)
NUM_LAYERS = (6, 8, 8, 8)
BOTTLENECK = 4


class DenseLayer(nn.Module):
    """1x1 and 3x3 pre-activated convolutions; the input joins their output."""

    def __init__(self, in_channels: int, growth_rate: int, norm_cfg: dict,
                 act_cfg: dict) -> None:
        super().__init__()
        width = BOTTLENECK * growth_rate
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.bottleneck = build_preact_conv(in_channels, width, 1, **cfg)
        self.conv = build_preact_conv(width, growth_rate, 3, **cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + growth_rate, H, W)."""
        return torch.cat((x, self.conv(self.bottleneck(x))), dim=1)


@MODELS.register_module()
class DSODDenseNet(BaseModule):
    """DSOD's DenseNet: three stem convolutions and four dense blocks.

    ::

        stem - pool - block 1 - pool - block 2 ┬ pool - block 3 - block 4 ┐
                                            stride 8                  stride 16

    Each block ends with a 1x1 convolution, of which only the last one changes
    the number of channels. The stem is post-activated, all else pre-activated;
    both outputs are of a convolution that neither norm nor activation follows.

    Args:
        growth_rate: Channels that each layer of a block adds.
        in_channels: Channels of the images.
        last_channels: Channels of the second output.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
        init_cfg: Caffe's xavier by default.

    Attributes:
        out_channels (tuple[int]): Channels of each output: 800 and 256 with
            the default growth rate.
        strides (tuple[int]): Stride of each output, in pixels of the input.
    """

    def __init__(
        self,
        growth_rate: int = 48,
        in_channels: int = 3,
        last_channels: int = 256,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or [*CAFFE_XAVIER_INIT])
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.stem = nn.Sequential()
        channels = in_channels
        for i, width in enumerate(STEM_CHANNELS):
            self.stem.append(ConvModule(
                channels, width, 3, 2 if i == 0 else 1, 1, **cfg))
            channels = width
        self.blocks = nn.ModuleList()
        widths = []
        for i, num_layers in enumerate(NUM_LAYERS):
            # Blocks 3 and 4 share a resolution.
            block = nn.Sequential(*[
                nn.MaxPool2d(2, 2, ceil_mode=True)] * (i < 3))
            for _ in range(num_layers):
                block.append(DenseLayer(channels, growth_rate, **cfg))
                channels += growth_rate
            width = last_channels if i == 3 else channels
            block.append(build_preact_conv(channels, width, 1, **cfg))
            self.blocks.append(block)
            channels = width
            widths.append(width)
        self.out_channels = (widths[1], widths[3])
        self.strides = (8, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both maps, (N, out_channels[i], ~H/strides[i], ...)."""
        x = self.stem(x)
        outs = []
        for block in self.blocks:
            x = block(x)
            outs.append(x)
        return outs[1], outs[3]
