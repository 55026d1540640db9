"""VGG-16 and ResNet-50 as RefineDet has them in Caffe.

Source: ``VGGNetBody(reduced=True, dilated=False)`` and ``ResNet50Body`` of
``model_libs.py`` in sfzhang15/RefineDet@52b6fe2 and
youngwanLEE/VoVNet-RefineDet@46fb3c5. Each differs in one place from mmdet
3.3.0's ``SSDVGG`` and ``ResNet(style='caffe')``; ResNet-101 does not.
"""
from collections.abc import Sequence

import torch
from mmdet.models.backbones import SSDVGG, ResNet
from mmdet.registry import MODELS
from torch import nn


@MODELS.register_module()
class RefineDetVGG(SSDVGG):
    """VGG-16 with outputs ``conv4_3``, ``conv5_3`` and ``fc7``.

    Their channels are 512, 512 and 1024, their strides 8, 16 and 32. SSD's
    VGG keeps the resolution behind ``conv5_3`` and dilates ``fc6`` by 6; here
    it is halved and ``fc6`` dilated by 3. SSD's weights fit.
    """

    def __init__(self, init_cfg: dict | Sequence[dict] | None = None) -> None:
        super().__init__(
            16, out_feature_indices=(22, 29, 34), init_cfg=init_cfg)
        self.features[30] = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.features[31] = nn.Conv2d(512, 1024, 3, padding=3, dilation=3)


@MODELS.register_module()
class RefineDetResNet50(ResNet):
    """ResNet-50 whose first convolution has a bias, beside its batch norm.

    Only for the paper's number of parameters, and for Caffe's weights: batch
    norm takes the bias out again.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(50, **kwargs)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        self.conv1.bias = nn.Parameter(torch.zeros(stem_channels))
