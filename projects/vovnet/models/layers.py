"""Layers that several detectors share.

Source of :class:`L2Norm`: Liu et al., "ParseNet", arXiv:1506.04579, section
3.3; Caffe's ``Normalize`` layer in sfzhang15/RefineDet@52b6fe2. mmdet 3.3.0
has one in ``necks/ssd_neck.py``, whose weight is not initialised and whose
gradient is NaN where all channels are zero: it adds its epsilon to the root,
Caffe to the sum below it.
"""
import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn


class L2Norm(nn.Module):
    """Scale each pixel's vector of channels to a length, per channel learnt.

    Args:
        channels (int): Channels of the input.
        scale (float): What the weight of every channel begins with.
        eps (float): Added to the sum of squares.
    """

    def __init__(self, channels: int, scale: float = 20.,
                 eps: float = 1e-10) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((channels, ), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W) along C, in single precision or better."""
        # Squares of half-precision numbers soon overflow.
        wide = x if x.dtype == torch.double else x.float()
        norm = (wide.square().sum(1, keepdim=True) + self.eps).sqrt()
        return (self.weight[:, None, None] * (wide / norm)).to(x.dtype)


def pre_activated(in_channels: int, out_channels: int, kernel_size: int,
                  norm_cfg: dict, act_cfg: dict, stride: int = 1
                  ) -> ConvModule:
    """Build norm, activation and a convolution without bias, in this order.

    The padding keeps a map's size at stride 1 and halves it, rounded up, at
    stride 2.
    """
    return ConvModule(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2,
        bias=False, norm_cfg=norm_cfg, act_cfg=act_cfg,
        order=('norm', 'act', 'conv'))
