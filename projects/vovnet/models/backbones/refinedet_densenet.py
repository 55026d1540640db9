"""DenseNet as a backbone of RefineDet.

Lee et al. (arXiv:1904.09730, Table 4) publish no code for theirs. Of the
wirings that were tried on mmpretrain 1.2.0's ``DenseNet``, only the first has
their numbers of parameters (millions; ``res6`` and residual blocks before the
predictors as for VoVNet, 81 classes):

====================================================  ======  ======
taps at strides 8, 16, 32                             D-201   D-161
====================================================  ======  ======
1x1 convolutions of two transitions, last block       56.127  66.755
  the same without the last block's norm              56.124  66.751
  the same with a ``res6`` of 256 channels            54.434  64.970
  the same with a ``res6`` of 1024 channels           59.833  70.645
  the same without the residual blocks                36.239  46.223
outputs of the last three dense blocks                60.256  71.916
outputs of the three transitions, pooled              49.050  58.793
the paper                                             56.13   66.76
====================================================  ======  ======

Needs mmpretrain, and is not imported with the package: configs name the class
by its full path.
"""
from mmpretrain.models.backbones import DenseNet
from torch import Tensor, nn


class RefineDetDenseNet(DenseNet):
    """DenseNet whose maps are taken before the transitions pool.

    Each transition's 1x1 convolution gives a map at the resolution of the
    dense block before it; mmpretrain's own outputs are pooled.

    ``out_indices`` are stages, 0..3, of strides 4, 8, 16, 32. Their channels
    are 128, 256, 896, 1920 for arch '201', and 192, 384, 1056, 2208 for '161'.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of ``out_indices`` from images (N, 3, H, W)."""
        outs = []
        x = self.stem(x)
        for stage, transition in zip(self.stages, self.transitions):
            x = out = stage(x)
            for layer in transition:
                x = layer(x)
                if not isinstance(layer, nn.AvgPool2d):
                    out = x
            outs.append(out)
        return tuple(outs[i] for i in self.out_indices)
