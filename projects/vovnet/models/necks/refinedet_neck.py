"""RefineDet's source maps and its top-down path.

Sources: Zhang et al., arXiv:1711.06897, section 3.1 and Figure 2; Caffe
scripts of its authors, sfzhang15/RefineDet@52b6fe2 (``examples/refinedet``,
``model_libs.py``), and of VoVNet's author,
youngwanLEE/VoVNet-RefineDet@46fb3c5. The deconvolution is 2x2 as in the
scripts, not as in the paper's figure.
"""
from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_norm_layer
from mmdet.models.backbones.resnet import Bottleneck
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..layers import L2Norm


def build_residual_block(in_channels: int, planes: int, stride: int,
                         norm_cfg: dict) -> Bottleneck:
    """Build Caffe's ``ResBody``: 1x1, 3x3 and 1x1 added to a 1x1 projection.

    mmdet's ``ResLayer`` has no projection where the widths are equal. The
    output has four times as many channels as ``planes``.
    """
    channels = planes * Bottleneck.expansion
    # Not ConvModule, which would initialize itself a second time.
    projection = nn.Sequential(
        nn.Conv2d(in_channels, channels, 1, stride, bias=False),
        build_norm_layer(norm_cfg, channels)[1])
    return Bottleneck(in_channels, planes, stride, downsample=projection,
                      style='caffe', norm_cfg=norm_cfg)


class TransferConnectionBlock(nn.Module):
    """TCB: from a source map to one for the object detection module.

    ::

        x ─ 3x3 conv ─ 3x3 conv (+ 2x2 deconv of above) ─ ReLU ─ 3x3 conv ─

    Args:
        in_channels: Channels of the source map.
        out_channels: Channels of the output and of the one above.
        top: Whether this is the coarsest block.
        norm_cfg: Config of the norm layers behind all convolutions; None for
            biases instead.
    """

    def __init__(self, in_channels: int, out_channels: int, top: bool,
                 norm_cfg: dict | None) -> None:
        super().__init__()
        self.conv1 = ConvModule(
            in_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg)
        self.conv2 = ConvModule(
            out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg,
            act_cfg=None)
        self.upsample = None if top else ConvModule(
            out_channels, out_channels, 2, 2, conv_cfg=dict(type='deconv'),
            norm_cfg=norm_cfg, act_cfg=None)
        self.conv3 = ConvModule(
            out_channels, out_channels, 3, padding=1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor, above: Tensor | None = None) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W).

        ``above`` is the next coarser output, (N, out_channels, H/2, W/2).
        """
        x = self.conv2(self.conv1(x))
        if above is not None:
            x = x + self.upsample(above)
        return self.conv3(F.relu(x))


@MODELS.register_module()
class RefineDetNeck(BaseModule):
    """Maps for RefineDet's two modules: refining anchors, detecting objects.

    To the backbone's maps it adds a coarser one: ``res6``, a residual block
    (1x1 of stride 2, 3x3, 1x1), or, without norms, VGG's ``conv6`` (1x1, 3x3
    of stride 2). These are the sources of the anchor refinement module (ARM);
    transfer connection blocks make the maps of the object detection module
    (ODM) of them, from coarse to fine.

    Args:
        in_channels: Channels of the backbone's maps.
        extra_channels: Channels of the added map.
        out_channels: Channels of the maps for the ODM.
        l2_norm_scales: For each map of the backbone the initial weight of its
            source's L2 norm, or None for no norm; VGG's are (10, 8, None).
        norm_cfg: Config of the norm layers; None for VGG.
        init_cfg: By default Caffe's: Gaussian of deviation 0.01 before norms,
            xavier without norms.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (512, 768, 1024),
        extra_channels: int = 512,
        out_channels: int = 256,
        l2_norm_scales: Sequence[float | None] | None = None,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006
        init_cfg: dict | Sequence[dict] | None = None,
    ) -> None:
        layer = ['Conv2d', 'ConvTranspose2d']
        super().__init__(init_cfg or (
            dict(type='Normal', std=0.01, layer=layer) if norm_cfg else
            dict(type='Caffe2Xavier', layer=layer)))
        scales = l2_norm_scales or [None] * len(in_channels)
        if len(scales) != len(in_channels):
            raise ValueError(
                f'RefineDetNeck: l2_norm_scales={scales!r} needs an entry for '
                f'each of in_channels={tuple(in_channels)}')
        if extra_channels % Bottleneck.expansion:
            raise ValueError(f'RefineDetNeck: extra_channels={extra_channels} '
                             f'is no multiple of {Bottleneck.expansion}')
        self.norms = nn.ModuleList(
            L2Norm(channels, scale) if scale else nn.Identity()
            for channels, scale in zip(in_channels, scales))
        if norm_cfg:
            self.extra = build_residual_block(
                in_channels[-1], extra_channels // Bottleneck.expansion, 2,
                norm_cfg)
        else:
            self.extra = nn.Sequential(
                ConvModule(in_channels[-1], extra_channels // 2, 1),
                ConvModule(extra_channels // 2, extra_channels, 3, 2, 1))
        # Not MMEngine's ModuleList, for the reason given above.
        self.blocks = nn.ModuleList(
            TransferConnectionBlock(channels, out_channels, top, norm_cfg)
            for channels, top in [*((c, False) for c in in_channels),
                                  (extra_channels, True)])

    def forward(self, inputs: Sequence[Tensor]
                ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Compute the maps of both modules.

        Args:
            inputs: The backbone's maps, fine to coarse.

        Returns:
            Maps for the ARM, (N, C, H, W) with the channels of ``in_channels``
            and ``extra_channels``, and maps for the ODM,
            (N, out_channels, H, W), both fine to coarse.

        Raises:
            ValueError: A map is not twice as high and wide as the next.
        """
        # Norms apply to the sources only, not to the input of the extra map.
        sources = [norm(x) for norm, x in zip(self.norms, inputs)]
        sources.append(self.extra(inputs[-1]))
        shapes = [tuple(x.shape[-2:]) for x in sources]
        for (h, w), (above_h, above_w) in zip(shapes, shapes[1:]):
            if (h, w) != (2 * above_h, 2 * above_w):
                raise ValueError(
                    f'RefineDetNeck: maps of {shapes} do not halve from one '
                    'to the next; use images whose sides are multiples of 64 '
                    'px (data_preprocessor.pad_size_divisor=64)')
        outs: list[Tensor] = []
        for block, x in zip(reversed(self.blocks), reversed(sources)):
            outs.insert(0, block(x, outs[0] if outs else None))
        return tuple(sources), tuple(outs)
