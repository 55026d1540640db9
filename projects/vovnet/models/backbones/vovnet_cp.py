"""VoVNetV2 with the options of mmdet3d's ``VoVNetCP``.

Source of the options: open-mmlab/mmdetection3d@d6307f8,
``projects/PETR/petr/vovnetcp.py`` (PETR, StreamPETR and SparseBEV have copies
of it). Differences: outputs are a tuple, the stem cannot be one of them,
stages behind the last output are not built, and weights may be named as in
any library.
"""
from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS

from .vovnet import VoVNet


@MODELS.register_module()
class VoVNetCP(VoVNet):
    """:class:`VoVNet` for configs of mmdet3d's projects, unchanged.

    Args:
        spec_name: The authors' name of a V2, e.g. 'V-99-eSE'.
        input_ch: Channels of the images.
        out_features: Stages to return, out of 'stage2' to 'stage5'; all by
            default.
        frozen_stages: See :class:`VoVNet`.
        norm_eval: True by default, as in mmdet3d.
        pretrained: ``checkpoint`` of ``init_cfg``.
        init_cfg: See :class:`VoVNet`.
        with_cp: 'block' by default: mmdet3d's always recomputes its blocks in
            training.
        arch: Takes the place of ``spec_name``.
        **options: Others of :class:`VoVNet`.
    """

    def __init__(self,
                 spec_name: str | None = None,
                 input_ch: int = 3,
                 out_features: Sequence[str] | None = None,
                 frozen_stages: int = -1,
                 norm_eval: bool = True,
                 pretrained: str | None = None,
                 init_cfg: dict | Sequence[dict] | None = None,
                 with_cp: bool | str = 'block',
                 arch: str | dict | None = None,
                 **options: Any) -> None:
        if not (spec_name or arch):
            raise ValueError("VoVNetCP: needs spec_name, e.g. 'V-99-eSE'")
        if pretrained:
            if init_cfg:
                raise ValueError('VoVNetCP: pretrained and init_cfg say the '
                                 'same, give one of them')
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(
            arch or spec_name, input_ch, out_features=out_features,
            frozen_stages=frozen_stages, norm_eval=norm_eval,
            init_cfg=init_cfg, with_cp=with_cp, **options)
