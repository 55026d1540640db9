"""Two-stage detectors as several graphs, between which boxes are pooled.

The first graph maps an image to feature maps and the RPN's scores and deltas,
``roi`` (and ``roi2``, ... of a cascade) pooled proposals to class logits and
deltas, ``mask`` pooled detections to masks.
:mod:`vovnet.deploy.onnx.two_stage_postprocess` does what happens in between.
Maps and pooled boxes have their channels last, as NumPy gathers them.
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
from torch import Tensor, nn

from ...utils.errors import UserError
from .graph import Graph, create_image_input, read_nms, run_example


def build(model: TwoStageDetector, shape: tuple[int, int], *, dynamic: bool,
          normalize: bool, maps: bool) -> tuple[list[Graph], dict]:
    """Build the graphs of Faster, Mask or Cascade R-CNN.

    Takes the arguments of :func:`vovnet.deploy.export.one_stage.build`, but
    refuses ``maps``. The number of boxes is always free.

    Returns:
        The graphs, and for the metadata ``kind``, ``test`` (the last NMS) and
        ``two_stage`` (from :func:`describe`).

    Raises:
        UserError: If a part of the detector has no path to ONNX.
    """
    if maps:
        raise UserError(
            f'--maps: the graphs of {type(model).__name__} decode no boxes '
            'in any case; leave the option out')
    spec = describe(model)
    head, mask = model.roi_head, spec['mask']
    parts = [(stage['graph'], BoxHead(box_head), stage['pool'],
              ['cls_score', 'bbox_pred'])
             for stage, box_head in zip(spec['stages'],
                                        _list_stages(head.bbox_head))]
    if mask:
        parts.append(('mask', MaskHead(_list_stages(head.mask_head)),
                      mask['pool'], ['masks']))
    features = max(len(pool['strides']) for _, _, pool, _ in parts)
    channels = (model.neck.out_channels if model.with_neck else
                model.rpn_head.in_channels)
    graphs = [_build_first(model, shape, dynamic, normalize, features)]
    for name, module, pool, outputs in parts:
        # Two boxes: an exporter would take a single one for a constant.
        inputs = dict(pooled=torch.randn(2, *pool['size'], channels))
        graphs.append(Graph(name, module, inputs, outputs, {
            key: {0: 'boxes'} for key in ('pooled', *outputs)}))
    test = head.test_cfg
    return graphs, dict(
        kind='two_stage_mask' if mask else 'two_stage',
        two_stage=spec,
        test=dict(score_thr=test.score_thr, nms=read_nms(test.nms, head),
                  max_per_img=test.max_per_img))


def _build_first(model: TwoStageDetector, shape: tuple[int, int],
                 dynamic: bool, normalize: bool, features: int) -> Graph:
    start, inputs, axes = create_image_input(
        model.data_preprocessor, shape, dynamic=dynamic, normalize=normalize)
    network = FirstStage(model, start, features)
    found = run_example(network, inputs)
    if not normalize:
        del inputs['size']
    levels = (len(found) - features) // 2
    outputs = [*(f'feature_{i}' for i in range(features)),
               *(f'rpn_score_{i}' for i in range(levels)),
               *(f'rpn_delta_{i}' for i in range(levels))]
    if dynamic:
        axes |= {name: {1: f'{name}_height', 2: f'{name}_width'}
                 for name in outputs}
    return Graph('', network, inputs, outputs, axes)


class FirstStage(nn.Module):
    """Backbone, neck and region proposal network.

    ``features`` is the number of feature maps that boxes are pooled from.
    """

    def __init__(self, model: TwoStageDetector, start: nn.Module | None,
                 features: int) -> None:
        super().__init__()
        self.model, self.start, self.features = model, start, features

    def forward(self, image: Tensor,
                size: Tensor | None = None) -> tuple[Tensor, ...]:
        """Compute the maps.

        Returns:
            Feature maps (1, H, W, C); then per level the scores of the
            anchors, (1, H, W, A), in 0..1; then per level their deltas,
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
    """A box head for pooled boxes whose channels come last."""

    def __init__(self, head: BBoxHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Classify and refine pooled boxes, (n, height, width, C).

        Returns:
            Logits (n, classes + 1), the background last; deltas (n, 4
            classes), or (n, 4) for all classes alike.
        """
        return self.head(pooled.permute(0, 3, 1, 2))


class MaskHead(nn.Module):
    """The mean of one or, in a cascade, several mask heads."""

    def __init__(self, heads: list[FCNMaskHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return mask probabilities, (n, classes or 1, height', width')."""
        pooled = pooled.permute(0, 3, 1, 2)
        return sum(head(pooled).sigmoid()
                   for head in self.heads) / len(self.heads)


def describe(model: TwoStageDetector) -> dict:
    """Describe what is done between and after the graphs.

    Returns:
        ``rpn``, ``stages`` and ``mask`` (None without masks), of JSON's types.

    Raises:
        UserError: If a part of the detector has no path to ONNX.
    """
    rpn, head = model.rpn_head, model.roi_head
    _expect(type(model).predict is TwoStageDetector.predict, model)
    _expect(type(rpn) is RPNHead, rpn)
    _expect(type(head) in (StandardRoIHead, CascadeRoIHead)
            and not head.with_shared_head, head)
    priors, test = rpn.prior_generator, rpn.test_cfg
    _expect(type(priors) is AnchorGenerator, priors)
    stages = [
        dict(graph=f'roi{i}' if i > 1 else 'roi', pool=_read_pool(extractor),
             coder=_read_box_head(box_head))
        for i, (extractor, box_head) in enumerate(
            zip(_list_stages(head.bbox_roi_extractor),
                _list_stages(head.bbox_head)), 1)]
    return dict(
        rpn=dict(
            base_anchors=[level.tolist() for level in priors.base_anchors],
            strides=[list(stride) for stride in priors.strides],
            coder=_read_coder(rpn.bbox_coder),
            nms_pre=test.get('nms_pre', -1),
            min_bbox_size=test.get('min_bbox_size', -1),
            nms=read_nms(test.nms, rpn),
            max_per_img=test.max_per_img),
        stages=stages,
        mask=_read_mask(head) if head.with_mask else None)


def _read_mask(head: StandardRoIHead) -> dict:
    pool, *others = map(_read_pool, _list_stages(head.mask_roi_extractor))
    # A cascade's mask heads all get the same boxes, and share a graph.
    _expect(all(other == pool for other in others), head)
    threshold = head.test_cfg.mask_thr_binary
    _expect(threshold >= 0, head)
    for mask_head in _list_stages(head.mask_head):
        _expect(type(mask_head) is FCNMaskHead, mask_head)
    return dict(pool=pool, threshold=threshold)


def _read_pool(extractor: nn.Module) -> dict:
    _expect(type(extractor) is SingleRoIExtractor, extractor)
    layer = extractor.roi_layers[0]
    _expect(type(layer) is RoIAlign and layer.pool_mode == 'avg', layer)
    return dict(
        strides=list(extractor.featmap_strides),
        finest_scale=extractor.finest_scale,
        size=list(layer.output_size),
        sampling_ratio=layer.sampling_ratio,
        aligned=layer.aligned)


def _read_box_head(head: nn.Module) -> dict:
    _expect(isinstance(head, BBoxHead) and head.with_cls and head.with_reg
            and not head.custom_activation
            and type(head).predict_by_feat is BBoxHead.predict_by_feat
            and type(head)._predict_by_feat_single
            is BBoxHead._predict_by_feat_single, head)
    return _read_coder(head.bbox_coder)


def _read_coder(coder: object) -> dict:
    _expect(type(coder) is DeltaXYWHBBoxCoder and not coder.add_ctr_clamp,
            coder)
    return dict(means=list(coder.means), stds=list(coder.stds),
                clip=coder.clip_border)


def _list_stages(part: nn.Module) -> list[nn.Module]:
    """Return the parts of a cascade, or the only one."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _expect(known: bool, part: object) -> None:
    if not known:
        raise UserError(
            f'{type(part).__name__}: this part of a two-stage detector, or '
            'its settings, has no path to ONNX here; Faster, Mask and Cascade '
            "R-CNN of mmdet's RPNHead, SingleRoIExtractor with RoIAlign, "
            'BBoxHead, FCNMaskHead and DeltaXYWHBBoxCoder have one')
