"""The networks of the VoVNet paper's CIFAR-10 study.

Sources:
- DenseNet-40: Huang et al., "Densely Connected Convolutional Networks",
  arXiv:1608.06993, section 3 and Table 2 (k=12, no bottleneck, no
  compression, 16 channels before the first block), pre-activation.
- OSA 12/20 and 5/43: Lee et al., arXiv:1904.09730, section 3.2 and Figure 2:
  One-Shot Aggregation in place of the dense blocks.

The VoVNet paper does not list its two networks. This reading of it gives 43
as the best width for the multiply-adds of DenseNet-40, and 2.6 M as its
memory access cost: 16 channels before the first block, a block's input in its
concatenation, and a 1x1 transition that keeps the concatenation's width, after
the third block too (the aggregating convolution of :class:`OSABlock`). The
average pooling between the blocks and the initialization are DenseNet's.
"""
from typing import NamedTuple

import torch
from mmcv.cnn import ConvModule, build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import KAIMING_INIT, build_preact_conv
from .vovnet import OSABlock

NUM_BLOCKS = 3
STEM_CHANNELS = 16


class CIFARArch(NamedTuple):
    """Structure of one of the study's networks.

    Attributes:
        num_layers: 3x3 convolutions of each of the three blocks.
        channels: Width of those convolutions (DenseNet's growth rate).
        dense: Dense blocks; otherwise OSA blocks.
    """
    num_layers: int
    channels: int
    dense: bool = False


cifar_arch_settings: dict[str, CIFARArch] = {
    'DenseNet-40': CIFARArch(12, 12, dense=True),
    'OSA-12/20': CIFARArch(12, 20),
    'OSA-5/43': CIFARArch(5, 43),
}


class DenseBlock(nn.Module):
    """3x3 convolutions, each of the concatenated input and all before it."""

    def __init__(self, in_channels: int, growth_rate: int, num_layers: int,
                 norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            build_preact_conv(in_channels + i * growth_rate, growth_rate, 3,
                              norm_cfg, act_cfg) for i in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + num_layers * growth_rate, H, W)."""
        for layer in self.layers:
            x = torch.cat((x, layer(x)), dim=1)
        return x


@MODELS.register_module()
class CIFARNet(BaseModule):
    """DenseNet-40 and the two OSA networks that the paper sets against it.

    Args:
        arch: 'DenseNet-40', 'OSA-12/20' or 'OSA-5/43'.
        in_channels: Channels of the images.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
        init_cfg: By default DenseNet's: normal, with a variance of
            2 / (k² out_channels); norms 1 and 0.

    Attributes:
        out_channels (tuple[int]): Channels of the output.
        strides (tuple[int]): Stride of the output, in pixels of the input.
    """

    def __init__(
        self,
        arch: str = 'OSA-5/43',
        in_channels: int = 3,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg or [*KAIMING_INIT])
        if arch not in cifar_arch_settings:
            raise ValueError(
                f'CIFARNet: arch={arch!r} is not one of '
                f'{", ".join(map(repr, cifar_arch_settings))}')
        self.arch = arch
        num_layers, width, dense = cifar_arch_settings[arch]
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        # A dense block begins with its own norm and activation.
        self.stem = ConvModule(
            in_channels, STEM_CHANNELS, 3, padding=1, bias=False,
            **(dict(act_cfg=None) if dense else cfg))
        self.blocks = nn.Sequential()
        channels = STEM_CHANNELS
        for i in range(1, NUM_BLOCKS + 1):
            joined = channels + num_layers * width
            if dense:
                block = DenseBlock(channels, width, num_layers, **cfg)
            else:
                block = OSABlock(
                    channels, width, joined, num_layers, depthwise=False,
                    residual=False, ese=False, **cfg)
            self.blocks.add_module(f'block{i}', block)
            channels = joined
            if i == NUM_BLOCKS:
                break
            if dense:
                self.blocks.add_module(
                    f'transition{i}',
                    build_preact_conv(channels, channels, 1, **cfg))
            self.blocks.add_module(f'pool{i}', nn.AvgPool2d(2))
        if dense:
            self.blocks.add_module(
                'norm', build_norm_layer(norm_cfg, channels)[1])
            self.blocks.add_module('act', build_activation_layer(act_cfg))
        self.out_channels = (channels, )
        self.strides = (2**(NUM_BLOCKS - 1), )

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Map (N, in_channels, H, W) to (N, out_channels[0], H/4, W/4)."""
        return (self.blocks(self.stem(x)), )
