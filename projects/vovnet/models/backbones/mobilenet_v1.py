"""MobileNet (V1), for the first row of the VoVNet paper's Table 2.

Sources: Howard et al., arXiv:1704.04861, Table 1; the layers are numbered and
feed SSD as in ``gen.py`` of chuanqi305/MobileNet-SSD@5a480f4.
"""
from collections.abc import Sequence

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import KAIMING_INIT

# Channels and stride of the depthwise separable layers 1 to 13.
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
          *((512, 1), ) * 5, (1024, 2), (1024, 1))


@MODELS.register_module()
class MobileNetV1(BaseModule):
    """MobileNet of full width, without its classifier.

    Args:
        in_channels: Channels of the images.
        out_indices: Ascending numbers of the layers to return, 0 (the first
            convolution) to 13. Later layers are not built.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
        init_cfg: Kaiming initialization by default.

    Attributes:
        out_channels (tuple[int]): Channels of each output.
        strides (tuple[int]): Stride of each output, in pixels of the input.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_indices: Sequence[int] = (11, 13),
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or [*KAIMING_INIT])
        if not out_indices or not set(out_indices) <= set(
                range(len(LAYERS) + 1)):
            raise ValueError(f'MobileNetV1: out_indices={out_indices!r} must '
                             f'be layers out of 0 to {len(LAYERS)}')
        self.out_indices = tuple(out_indices)
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        channels, stride = 32, 2
        self.layers = nn.ModuleList(
            [ConvModule(in_channels, channels, 3, stride, 1, **cfg)])
        widths, strides = [channels], [stride]
        for width, step in LAYERS[:max(out_indices)]:
            self.layers.append(DepthwiseSeparableConvModule(
                channels, width, 3, step, 1, **cfg))
            channels, stride = width, stride * step
            widths.append(channels)
            strides.append(stride)
        self.out_channels = tuple(widths[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute maps (N, out_channels[i], H/strides[i], W/strides[i])."""
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)
