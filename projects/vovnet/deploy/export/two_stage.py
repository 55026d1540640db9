"""Two-stage detectors as graphs, between which boxes are pooled.

Own work. Faster R-CNN becomes two graphs, Mask R-CNN three, Cascade R-CNN one
more for each further stage:

===========  ==============================  ==============================
file         takes                           gives
===========  ==============================  ==============================
``.onnx``    the picture                     feature maps; per level scores
                                             and deltas of the anchors
``.roi``     the pooled proposals            class logits and box deltas
``.mask``    the pooled detections           a probability mask per class
===========  ==============================  ==============================

Box and mask head do not share a graph, because the masks are pooled from the
boxes that the first one has led to. What happens in between is
:mod:`vovnet.deploy.onnx.two_stage_postprocess`; all it has to know stands in the
metadata. Maps and pooled boxes have their channels last, as NumPy gathers
them.
"""
import torch
from mmcv.ops import RoIAlign
from mmdet.models import (
    BBoxHead,
    CascadeRoIHead,
    FCNMaskHead,
    RPNHead,
    SingleRoIExtractor,
    StandardRoIHead,
)
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder
from mmengine.config import Config, ConfigDict
from torch import Tensor, nn

from ...utils.errors import UserError
from .graph import Graph, image_input, try_shape


def build(model: TwoStageDetector, cfg: Config, shape: tuple[int, int], *,
          dynamic: bool, normalize: bool,
          maps: bool) -> tuple[list[Graph], dict]:
    """Make the graphs of a two-stage detector.

    Args:
        model: In eval mode.
        cfg: Its config (not read).
        shape: Height and width of the input, px.
        dynamic: Whether they are free. The number of boxes always is.
        normalize: Whether the first graph normalises.
        maps: Refused: there are no graphs that decode boxes.

    Returns:
        tuple: The graphs, and for the metadata ``kind`` (``'two_stage'`` or
        ``'two_stage_mask'``), ``test`` (the last NMS) and ``two_stage`` (of
        :func:`describe`).

    Raises:
        UserError: If a part of the detector is not known here, or the
            network cannot take the shape.
    """
    if maps:
        raise UserError(
            f'--maps: the graphs of {type(model).__name__} decode no boxes '
            'in any case; leave the option out')
    spec = describe(model)
    head = model.roi_head
    pools = [stage['pool'] for stage in spec['stages']]
    if spec['mask']:
        pools.append(spec['mask']['pool'])
    first = _first_graph(model, shape, dynamic, normalize,
                         max(len(pool['strides']) for pool in pools))
    channels = model.neck.out_channels if model.with_neck else (
        model.rpn_head.in_channels)
    graphs = [first]
    for stage, box_head in zip(spec['stages'], _stages(head.bbox_head)):
        graphs.append(_pooled_graph(
            stage['graph'], BoxHead(box_head), stage['pool'], channels,
            ['cls_score', 'bbox_pred']))
    if spec['mask']:
        graphs.append(_pooled_graph(
            'mask', MaskHead(_stages(head.mask_head)), spec['mask']['pool'],
            channels, ['masks']))
    kind = 'two_stage_mask' if spec['mask'] else 'two_stage'
    test = model.roi_head.test_cfg
    return graphs, dict(
        kind=kind, two_stage=spec,
        test=dict(score_thr=test.score_thr, nms=_nms(test.nms),
                  max_per_img=test.max_per_img))


def describe(model: TwoStageDetector) -> dict:
    """All that is done between and after the graphs.

    Args:
        model: Faster R-CNN, Mask R-CNN, or a cascade of them.

    Returns:
        dict: Of JSON's types: ``rpn``, ``stages`` and ``mask``. The first
        two are what ``proposals`` and ``classify`` of
        :mod:`vovnet.deploy.onnx.two_stage_postprocess` take; the third is None, or how
        masks are pooled (``pool``) and the ``threshold`` they are cut at.

    Raises:
        UserError: If a part of the detector is not known here.
    """
    rpn, head = model.rpn_head, model.roi_head
    _expect(type(model).predict is TwoStageDetector.predict, model)
    _expect(type(rpn) is RPNHead, rpn)
    _expect(type(head) in (StandardRoIHead, CascadeRoIHead)
            and not head.with_shared_head, head)
    priors = rpn.prior_generator
    _expect(type(priors) is AnchorGenerator, priors)
    first, last = rpn.test_cfg, head.test_cfg
    boxes = _stages(head.bbox_head)
    names = ['roi', *(f'roi{i}' for i in range(2, len(boxes) + 1))]
    mask = None
    if head.with_mask:
        pool, *others = map(_pool, _stages(head.mask_roi_extractor))
        # A cascade's mask heads all get the same boxes, and share a graph.
        _expect(all(other == pool for other in others), head)
        _expect(last.mask_thr_binary >= 0, head)
        for mask_head in _stages(head.mask_head):
            _expect(type(mask_head) is FCNMaskHead, mask_head)
        mask = dict(pool=pool, threshold=last.mask_thr_binary)
    return dict(
        rpn=dict(
            base_anchors=[level.tolist() for level in priors.base_anchors],
            strides=[list(stride) for stride in priors.strides],
            coder=_coder(rpn.bbox_coder),
            nms_pre=first.get('nms_pre', -1),
            min_bbox_size=first.get('min_bbox_size', -1),
            nms=_nms(first.nms),
            max_per_img=first.max_per_img),
        stages=[
            dict(graph=name, pool=_pool(extractor), coder=_coder_of(box_head))
            for name, extractor, box_head in zip(
                names, _stages(head.bbox_roi_extractor), boxes)
        ],
        mask=mask)


class FirstStage(nn.Module):
    """Backbone, neck and region proposal network.

    Args:
        model: The detector.
        start: What normalises; None for nothing.
        features: Number of feature maps that boxes are pooled from.
    """

    def __init__(self, model: TwoStageDetector, start: nn.Module | None,
                 features: int) -> None:
        super().__init__()
        self.model, self.start, self.features = model, start, features

    def forward(self, image: Tensor,
                size: Tensor | None = None) -> tuple[Tensor, ...]:
        """Make the maps.

        Args:
            image: See :func:`vovnet.deploy.export.graph.image_input`.
            size: Height and width of the picture in it, (2, ), int64.

        Returns:
            tuple: Feature maps (1, H, W, C); then per level the scores of
            the anchors, (1, H, W, A), in 0..1; then per level their deltas,
            (1, H, W, 4 A).
        """
        if self.start is not None:
            image = self.start(image, size)
        features = self.model.extract_feat(image)
        rpn = self.model.rpn_head
        logits, deltas = rpn(features)
        features, logits, deltas = (
            [level.permute(0, 2, 3, 1) for level in levels]
            for levels in (features[:self.features], logits, deltas))
        if not rpn.use_sigmoid_cls:  # a softmax of object and background
            logits = [level[..., ::2] - level[..., 1::2] for level in logits]
        scores = [level.sigmoid() for level in logits]
        return (*features, *scores, *deltas)


class BoxHead(nn.Module):
    """A box head on boxes whose channels come last.

    Args:
        head: The detector's.
    """

    def __init__(self, head: BBoxHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Classify and refine boxes.

        Args:
            pooled: (n, height, width, C).

        Returns:
            tuple: Logits (n, classes + 1), the background last; deltas
            (n, 4 classes), or (n, 4) for all classes alike.
        """
        return self.head(pooled.permute(0, 3, 1, 2))


class MaskHead(nn.Module):
    """The mask head, or those of a cascade on average.

    Args:
        heads: The detector's.
    """

    def __init__(self, heads: list[FCNMaskHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, pooled: Tensor) -> Tensor:
        """Draw the boxes' masks.

        Args:
            pooled: (n, height, width, C).

        Returns:
            Tensor: Probabilities, (n, classes or 1, height', width').
        """
        pooled = pooled.permute(0, 3, 1, 2)
        return sum(head(pooled).sigmoid()
                   for head in self.heads) / len(self.heads)


def _first_graph(model: TwoStageDetector, shape: tuple[int, int],
                 dynamic: bool, normalize: bool, features: int) -> Graph:
    start, image = image_input(model.data_preprocessor, shape, normalize)
    network = FirstStage(model, start, features)
    inputs = dict(image=image)
    if normalize:
        inputs['size'] = torch.tensor(shape)
    found = try_shape(network, inputs, shape)
    levels = (len(found) - features) // 2
    outputs = [f'{kind}_{i}' for kind, n in dict(
        feature=features, rpn_score=levels, rpn_delta=levels).items()
        for i in range(n)]
    axes = {}
    if dynamic:
        top = 1 if normalize else 2
        axes = dict(image={top: 'height', top + 1: 'width'})
        axes |= {name: {1: f'{name}_height', 2: f'{name}_width'}
                 for name in outputs}
    return Graph('', network, inputs, outputs, axes)


def _pooled_graph(name: str, module: nn.Module, pool: dict, channels: int,
                  outputs: list[str]) -> Graph:
    # Two boxes: an exporter would take a single one for a constant.
    inputs = dict(pooled=torch.randn(2, *pool['size'], channels))
    return Graph(name, module, inputs, outputs,
                 {key: {0: 'boxes'} for key in ('pooled', *outputs)})


def _pool(extractor: nn.Module) -> dict:
    _expect(type(extractor) is SingleRoIExtractor, extractor)
    layer = extractor.roi_layers[0]
    _expect(type(layer) is RoIAlign and layer.pool_mode == 'avg', layer)
    return dict(
        strides=list(extractor.featmap_strides),
        finest_scale=extractor.finest_scale,
        size=list(layer.output_size),
        sampling_ratio=layer.sampling_ratio,
        aligned=layer.aligned)


def _coder_of(head: nn.Module) -> dict:
    _expect(isinstance(head, BBoxHead) and head.with_cls and head.with_reg
            and not head.custom_activation
            and type(head).predict_by_feat is BBoxHead.predict_by_feat
            and type(head)._predict_by_feat_single
            is BBoxHead._predict_by_feat_single, head)
    return _coder(head.bbox_coder)


def _coder(coder: object) -> dict:
    _expect(type(coder) is DeltaXYWHBBoxCoder and not coder.add_ctr_clamp,
            coder)
    return dict(means=list(coder.means), stds=list(coder.stds),
                clip=coder.clip_border)


def _nms(cfg: ConfigDict) -> dict:
    known = dict(type='nms', iou_threshold=None, class_agnostic=False,
                 split_thr=None)
    if cfg.get('type', 'nms') != 'nms' or set(cfg) - set(known):
        raise UserError(
            f'config: test_cfg has {dict(cfg)}; the exported detector knows '
            'nms with iou_threshold, class_agnostic and split_thr')
    return dict(iou_threshold=cfg['iou_threshold'],
                class_agnostic=cfg.get('class_agnostic', False))


def _stages(part: nn.Module) -> list[nn.Module]:
    """A cascade's parts, or the only one."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _expect(known: bool, part: object) -> None:
    if not known:
        raise UserError(
            f'{type(part).__name__}: this part of a two-stage detector, or '
            'the way it is set up, has no path to ONNX here; Faster R-CNN, '
            "Mask R-CNN and cascades of mmdet's RPNHead, SingleRoIExtractor "
            "with RoIAlign, BBoxHead, FCNMaskHead and DeltaXYWHBBoxCoder "
            'have one')
