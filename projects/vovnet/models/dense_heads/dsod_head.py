"""The predictors of DSOD.

Sources: Shen et al., "DSOD: Learning Deeply Supervised Object Detectors from
Scratch", arXiv:1708.01241; ``CreateMultiBoxHead`` in ``model_libs.py`` of
szq0214/DSOD@bbb6f0f (read, not copied). Caffe averages the statistics of
batch norm over about 1000 iterations; PyTorch's ten are kept here, so that
short runs end with statistics of their own weights.
"""
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from torch import nn

from .multibox_head import MultiBoxHead


@MODELS.register_module()
class DSODHead(MultiBoxHead):
    """A 3x3 convolution and batch norm for scores and one for boxes.

    The convolutions have no bias, nothing follows the norm. The priors and
    all else are the config's.

    Args:
        *args: As ``SSDHead`` takes them.
        norm_cfg (dict): Config of the norm layers.
        init_cfg (dict | list): A narrow Gaussian by default.
        **kwargs: As ``SSDHead`` takes them.
    """

    def __init__(
        self,
        *args,
        norm_cfg: dict = dict(type='BN', eps=1e-3),  # noqa: B006
        init_cfg: dict | list = dict(  # noqa: B006
            type='Normal', layer='Conv2d', std=0.01),
        **kwargs,
    ) -> None:
        super().__init__(*args, norm_cfg=norm_cfg, init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        # In torch's lists: MMEngine's would have each ConvModule initialise
        # itself after init_cfg.
        for kind, width in (('cls', self.cls_out_channels), ('reg', 4)):
            setattr(self, f'{kind}_convs', nn.ModuleList(
                ConvModule(channels, priors * width, 3, padding=1, bias=False,
                           norm_cfg=self.norm_cfg, act_cfg=None)
                for channels, priors in zip(self.in_channels,
                                            self.num_base_priors)))
