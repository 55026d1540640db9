"""The dense prediction structure of DSOD.

Sources: Shen et al., arXiv:1708.01241, section 3.1 and Figure 1;
``DSOD300_V3_Body`` in ``model_libs.py`` of szq0214/DSOD@bbb6f0f. Pools round
up, as Caffe's. How VoVNet-27-slim feeds it is not published: three stages as
the first three scales give the parameters and multiply-adds of Tables 2 and 3
in arXiv:1904.09730.
"""
from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import CAFFE_XAVIER_INIT, L2Norm, build_preact_conv


class DSODDownsample(nn.Module):
    """The next scale: half pooled and narrowed, half learned.

    The number of output channels is even.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict,
                 act_cfg: dict) -> None:
        super().__init__()
        half = out_channels // 2
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.reuse = nn.Sequential(
            nn.MaxPool2d(2, 2, ceil_mode=True),
            build_preact_conv(in_channels, half, 1, **cfg))
        self.learn = nn.Sequential(
            build_preact_conv(in_channels, half, 1, **cfg),
            build_preact_conv(half, half, 3, stride=2, **cfg))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / 2, W / 2)."""
        return torch.cat((self.reuse(x), self.learn(x)), dim=1)


@MODELS.register_module()
class DSODNeck(BaseModule):
    """Scales for the predictors: the backbone's and coarser ones.

    A coarser scale is half a pooled and narrowed copy of the one before and
    half learned from it (:class:`DSODDownsample`). The predictors get scales
    that are L2-normalized, the next scale is made without.

    Args:
        in_channels: Channels of the backbone's outputs, each half as high and
            wide as the one before.
        out_channels: Channels of all scales. The first ones are those of
            ``in_channels``, from the second on widened by ``fuse_channels``;
            the others are even.
        fuse_channels: Channels to which a scale of the backbone is pooled and
            narrowed to be joined to the backbone's next; 0 for no such link.
            The DenseNet of DSOD has 256.
        l2_norm_scale: Initial weight of the L2 norms.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
        init_cfg: Caffe's xavier by default.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 384, 512),
        out_channels: Sequence[int] = (256, 384, 512, 256, 256, 256),
        fuse_channels: int = 0,
        l2_norm_scale: float = 20.,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or [*CAFFE_XAVIER_INIT])
        given = len(in_channels)
        fused = [c + fuse_channels * (i > 0)
                 for i, c in enumerate(in_channels)]
        if list(out_channels[:given]) != fused:
            raise ValueError(
                f'DSODNeck: out_channels={tuple(out_channels)} must begin '
                f'with {tuple(fused)}, for in_channels={tuple(in_channels)} '
                f'and fuse_channels={fuse_channels}')
        if any(c % 2 for c in out_channels[given:]):
            raise ValueError(f'DSODNeck: out_channels={tuple(out_channels)} '
                             f'must be even from number {given + 1} on')
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.links = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2, 2, ceil_mode=True),
                          build_preact_conv(c, fuse_channels, 1, **cfg))
            for c in (in_channels[:-1] if fuse_channels else ()))
        self.downsamples = nn.ModuleList(
            DSODDownsample(c, d, **cfg) for c, d in zip(
                out_channels[given - 1:], out_channels[given:]))
        self.norms = nn.ModuleList(
            L2Norm(c, l2_norm_scale) for c in out_channels)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compute all scales from maps (N, in_channels[i], H_i, W_i).

        Returns:
            Maps (N, out_channels[i], H_i, W_i), from the backbone's last scale
            on half as high and wide each time, rounded up.
        """
        outs = list(inputs)
        for i, link in enumerate(self.links):
            outs[i + 1] = torch.cat((inputs[i + 1], link(inputs[i])), dim=1)
        for downsample in self.downsamples:
            outs.append(downsample(outs[-1]))
        return tuple(norm(out) for norm, out in zip(self.norms, outs))
