"""PeleeNet, for the second row of the VoVNet paper's Table 2.

Sources: Wang et al., "Pelee: A Real-Time Object Detection System on Mobile
Devices", arXiv:1804.06882, section 2 and Table 1; ``peleenet.py`` of
Robert-JunWang/Pelee@033dfd6 (read, not copied). Pools round up, as Caffe's.
"""
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

STEM_CHANNELS = 32
GROWTH = 32
NUM_LAYERS = (3, 4, 8, 6)
# Channels of a layer's 1x1 convolutions, of each of the two ways.
BOTTLENECKS = (16, 32, 64, 64)


class PeleeStem(nn.Module):
    """Two ways to a quarter of the size: a max-pool and a convolution.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels of the output.
        norm_cfg (dict): Config of the norm layers.
        act_cfg (dict): Config of the activations.
    """

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
    """A dense layer that sees 3x3 pixels one way and 5x5 the other.

    Args:
        in_channels (int): Channels of the input.
        growth (int): Channels that the layer adds, half of them each way.
        bottleneck (int): Channels of the 1x1 convolutions.
        norm_cfg (dict): Config of the norm layers.
        act_cfg (dict): Config of the activations.
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
        in_channels (int): Channels of the images. Defaults to 3.
        out_indices (Sequence[int]): Ascending numbers of the stages to
            return, 0 to 3; later ones than the last are not built.
        norm_cfg (dict): Config of the norm layers; the default has the
            epsilon of the authors' scripts.
        act_cfg (dict): Config of the activations.
        init_cfg (dict | list, optional): Caffe's xavier by default.

    Attributes:
        out_channels (tuple[int]): Channels of each output: of 128, 256, 512
            and 704.
        strides (tuple[int]): Stride of each output, in pixels of the input:
            of 4, 8, 16 and 32.

    Raises:
        ValueError: If there is no such stage.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: Sequence[int] = (2, 3),
        norm_cfg: dict = dict(type='BN', eps=1e-3),  # noqa: B006
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or [
            dict(type='Caffe2Xavier', layer='Conv2d'),
            dict(type='Constant', val=1, layer='_BatchNorm')])
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
        """Compute the stages that are asked for.

        Args:
            x (Tensor): Images (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: (N, out_channels[i], H / strides[i],
            W / strides[i]), rounded up.
        """
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)
