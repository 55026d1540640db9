"""Layers and initializations that several networks share."""
import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

KAIMING_INIT = (
    dict(type='Kaiming', layer='Conv2d'),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']))
CAFFE_XAVIER_INIT = (
    dict(type='Caffe2Xavier', layer='Conv2d'),
    dict(type='Constant', val=1, layer='_BatchNorm'))


class L2Norm(nn.Module):
    """L2 normalization along the channels, with a learned scale for each.

    Caffe's ``Normalize`` layer (ParseNet, arXiv:1506.04579, section 3.3).
    That of mmdet 3.3.0 (``necks/ssd_neck.py``) does not initialize its weight
    and has a NaN gradient where all channels are zero: it adds ``eps`` to the
    root, Caffe to the sum below it.
    """

    def __init__(self, channels: int, scale: float = 20.,
                 eps: float = 1e-10) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((channels, ), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W), in single precision or better."""
        # Squares of half-precision numbers soon overflow.
        wide = x if x.dtype == torch.double else x.float()
        norm = (wide.square().sum(1, keepdim=True) + self.eps).sqrt()
        return (self.weight[:, None, None] * (wide / norm)).to(x.dtype)


def build_preact_conv(in_channels: int, out_channels: int, kernel_size: int,
                      norm_cfg: dict, act_cfg: dict, stride: int = 1
                      ) -> ConvModule:
    """Build norm, activation and a convolution without bias, in this order."""
    return ConvModule(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2,
        bias=False, norm_cfg=norm_cfg, act_cfg=act_cfg,
        order=('norm', 'act', 'conv'))
