"""The predictors of DSOD.

Sources: Shen et al., arXiv:1708.01241; ``CreateMultiBoxHead`` in
``model_libs.py`` of szq0214/DSOD@bbb6f0f. Caffe averages the statistics of
batch norm over about 1000 iterations; PyTorch's ten are kept here, so that
short runs end with statistics of their own weights.
"""
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS

from .multibox_head import MultiBoxHead


@MODELS.register_module()
class DSODHead(MultiBoxHead):
    """A 3x3 convolution without bias and a batch norm, for scores and boxes.

    Args:
        *args: See :class:`MultiBoxHead`.
        norm_cfg: Config of the norm layers.
        init_cfg: A narrow Gaussian by default.
        **kwargs: See :class:`MultiBoxHead`.
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

    def _predictor(self, in_channels: int, out_channels: int) -> ConvModule:
        return ConvModule(
            in_channels, out_channels, self.kernel_size,
            padding=self.kernel_size // 2, bias=False, norm_cfg=self.norm_cfg,
            act_cfg=None)
