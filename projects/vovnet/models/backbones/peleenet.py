"""PeleeNet, for the second row of the VoVNet paper's Table 2.

Sources: Wang et al., arXiv:1804.06882, section 2 and Table 1; ``peleenet.py``
of Robert-JunWang/Pelee@033dfd6. Pools round up, as Caffe's.
"""
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import CAFFE_XAVIER_INIT

STEM_CHANNELS = 32
GROWTH = 32
NUM_LAYERS = (3, 4, 8, 6)
# Channels of a layer's 1x1 convolutions, by stage.
BOTTLENECKS = (16, 32, 64, 64)


class PeleeStem(nn.Module):
    """A convolution, then a max-pool beside another convolution."""

    def __init__(self, in_channels: int, channels: int, norm_cfg: dict,
                 act_cfg: dict) -> None:
        super().__init__()
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.conv = ConvModule(in_channels, channels, 3, 2, 1, **cfg)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.branch = nn.Sequential(
            ConvModule(channels, channels // 2, 1, **cfg),
            ConvModule(channels // 2, channels, 3, 2, 1, **cfg))
        self.fuse = ConvModule(2 * channels, channels, 1, **cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / 4, W / 4)."""
        x = self.conv(x)
        return self.fuse(torch.cat((self.pool(x), self.branch(x)), dim=1))


class TwoWayDenseLayer(nn.Module):
    """A dense layer of two branches, which see 3x3 and 5x5 pixels.

    Args:
        in_channels: Channels of the input.
        growth: Channels that the layer adds, half of them by each branch.
        bottleneck: Channels of the 1x1 convolutions.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
    """

    def __init__(self, in_channels: int, growth: int, bottleneck: int,
                 norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        half = growth // 2
        self.short = nn.Sequential(
            ConvModule(in_channels, bottleneck, 1, **cfg),
            ConvModule(bottleneck, half, 3, padding=1, **cfg))
        self.long = nn.Sequential(
            ConvModule(in_channels, bottleneck, 1, **cfg),
            ConvModule(bottleneck, half, 3, padding=1, **cfg),
            ConvModule(half, half, 3, padding=1, **cfg))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat((x, self.short(x), self.long(x)), dim=1)


@MODELS.register_module()
class PeleeNet(BaseModule):
    """PeleeNet without its classifier: a stem and four dense stages.

    A stage ends with a 1x1 convolution that keeps its channels; the next one
    begins with a 2x2 average pool. All convolutions are post-activated.

    Args:
        in_channels: Channels of the images.
        out_indices: Ascending numbers of the stages to return, 0 to 3. Later
            stages are not built.
        norm_cfg: Config of the norm layers; the default has the epsilon of
            the authors' scripts.
        act_cfg: Config of the activations.
        init_cfg: Caffe's xavier by default.

    Attributes:
        out_channels (tuple[int]): Channels of each output, out of 128, 256,
            512 and 704.
        strides (tuple[int]): Stride of each output, out of 4, 8, 16 and 32,
            in pixels of the input.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: Sequence[int] = (2, 3),
        norm_cfg: dict = dict(type='BN', eps=1e-3),  # noqa: B006
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or [*CAFFE_XAVIER_INIT])
        if not out_indices or not set(out_indices) <= set(range(4)):
            raise ValueError(f'PeleeNet: out_indices={out_indices!r} must be '
                             'stages out of 0 to 3')
        self.out_indices = tuple(out_indices)
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        channels = STEM_CHANNELS
        self.stem = PeleeStem(in_channels, channels, **cfg)
        self.stages = nn.ModuleList()
        widths = []
        for i in range(max(out_indices) + 1):
            stage = nn.Sequential(*[
                nn.AvgPool2d(2, 2, ceil_mode=True)] * (i > 0))
            for _ in range(NUM_LAYERS[i]):
                stage.append(TwoWayDenseLayer(
                    channels, GROWTH, BOTTLENECKS[i], **cfg))
                channels += GROWTH
            stage.append(ConvModule(channels, channels, 1, **cfg))
            self.stages.append(stage)
            widths.append(channels)
        self.out_channels = tuple(widths[i] for i in self.out_indices)
        self.strides = tuple(4 << i for i in self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute maps (N, out_channels[i], H/strides[i], W/strides[i])."""
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)
