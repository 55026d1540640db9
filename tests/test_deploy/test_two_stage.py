"""Two-stage detectors without torch: the parts, and the whole.

Own work. The parts are compared with torchvision's and mmdet's, the whole
with mmdet's ``predict``, on random weights large enough to tell boxes apart.
"""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.models import FCNMaskHead, SingleRoIExtractor
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from torch import nn
from torchvision.ops import nms, roi_align

import vovnet  # noqa: F401
from vovnet.deploy.export import two_stage
from vovnet.deploy.export.export import export_detector
from vovnet.deploy.export.verify import detect
from vovnet.deploy.onnx import two_stage_postprocess as two_stage_numpy
from vovnet.deploy.onnx.detector import Detections, Detector, Picture
from vovnet.utils.errors import UserError

register_all_modules()
ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/demo/mask-rcnn_vovnet-27-slim_fpn_shapes.py'
TINY = dict(
    num_blocks=(1, 1, 1, 1), num_layers=2, stem_channels=(8, 8, 8),
    stage_channels=(8, 8, 8, 8), aggregated_channels=(8, 16, 16, 16))
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')


def some_boxes(rng, count, side=200):
    """Boxes inside and outside of a picture, empty ones and tiny ones."""
    corner = rng.uniform(-0.3 * side, 1.2 * side, (count, 2))
    extent = rng.exponential(0.3 * side, (count, 2))
    extent[:10] = 0
    extent[10:20] /= 1000
    extent[20:25, 0] = 0
    return np.concatenate([corner, corner + extent], 1).astype(np.float32)


# ------------------------------------------------------------------ the parts
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2, 3])
@pytest.mark.parametrize('shape, size', [
    ((20, 30, 6), (7, 7)), ((20, 30, 6), (3, 14)), ((1, 9, 2), (7, 7))])
def test_roi_align_is_torchvisions(shape, size, sampling_ratio, aligned):
    rng = np.random.default_rng(0)
    feature = rng.standard_normal(shape, np.float32)
    boxes = some_boxes(rng, 300)
    boxes[-20:, :2] += 300  # negative sizes
    expected = roi_align(
        torch.from_numpy(feature).permute(2, 0, 1)[None],
        [torch.from_numpy(boxes)], size, 1 / 8, sampling_ratio, aligned)
    found = two_stage_numpy.roi_align(feature, boxes, size, 1 / 8,
                                      sampling_ratio, aligned)
    assert expected.abs().max() > 1
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected,
                               atol=5e-6)


def test_boxes_are_pooled_from_their_level():
    rng = np.random.default_rng(0)
    extractor = SingleRoIExtractor(
        dict(type='RoIAlign', output_size=(3, 2), sampling_ratio=0), 4,
        [4, 8, 16], finest_scale=20)
    maps = [rng.standard_normal((1, n, n, 4), np.float32)
            for n in (50, 25, 13)]
    boxes = some_boxes(rng, 300)
    edge = boxes[150:]  # of two levels
    edge[:, :2] = np.floor(edge[:, :2])
    edge[:, 2:] = edge[:, :2] + 40
    expected = extractor(
        [torch.from_numpy(x).permute(0, 3, 1, 2) for x in maps],
        nn.functional.pad(torch.from_numpy(boxes), (1, 0)))
    spec = two_stage._pool(extractor)
    found = two_stage_numpy.pool(maps, boxes, spec)
    levels = two_stage_numpy.roi_levels(boxes, 20, 3)
    assert (levels[150:] == 1).all() and set(levels[:150]) == {0, 1, 2}
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected,
                               atol=5e-6)


@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.7])
@pytest.mark.parametrize('count', [0, 1, 100, 1000])
def test_nms_is_torchvisions(count, threshold):
    rng = np.random.default_rng(count)
    # Whole numbers: many equal scores, and IoUs at the threshold.
    corner = rng.integers(0, 20, (count, 2))
    boxes = np.float32(np.concatenate(
        [corner, corner + rng.integers(0, 15, (count, 2))], 1))
    scores = rng.integers(0, 20, count).astype(np.float32)
    # torchvision compares with a double, mmcv with a float.
    expected = nms(torch.from_numpy(boxes), torch.from_numpy(scores),
                   float(np.float32(threshold)))
    found = two_stage_numpy.nms(boxes, scores, threshold)
    assert found.tolist() == expected.tolist()
    assert len(found) < max(2, count)
    assert two_stage_numpy.nms(boxes, scores, threshold, 3).tolist() == (
        expected[:3].tolist())


@pytest.mark.parametrize('options', [
    {}, dict(class_agnostic=True), dict(split_thr=100)])
def test_classes_do_not_suppress_each_other(options):
    rng = np.random.default_rng(0)
    boxes = some_boxes(rng, 600).clip(0, 150)
    scores = rng.random(600, np.float32)
    groups = rng.integers(0, 4, 600)
    cfg = ConfigDict(type='nms', iou_threshold=0.5, **options)
    dets, expected = batched_nms(*map(torch.from_numpy, (
        boxes, scores, groups)), cfg)
    found = two_stage_numpy.grouped_nms(boxes, scores, groups,
                                        two_stage._nms(cfg), -1)
    assert found.tolist() == expected.tolist()
    assert len(found) < 600


@pytest.mark.parametrize('clip', [True, False])
def test_deltas_are_mmdets(clip):
    rng = np.random.default_rng(0)
    coder = DeltaXYWHBBoxCoder((0.1, 0, -0.1, 0), (0.1, 0.1, 0.2, 0.3),
                               clip_border=clip)
    boxes = some_boxes(rng, 200)
    deltas = rng.normal(0, 8, (200, 4)).astype(np.float32)
    expected = coder.decode(torch.from_numpy(boxes),
                            torch.from_numpy(deltas), max_shape=(120, 180))
    found = two_stage_numpy.decode(boxes, deltas, (120, 180),
                                   two_stage._coder(coder))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_anchors_are_mmdets():
    generator = AnchorGenerator([(8, 4)], [0.5, 2], [3], center_offset=0.5)
    expected, = generator.grid_priors([(5, 7)], device='cpu')
    index = np.random.default_rng(0).permutation(5 * 7 * 2)
    found = two_stage_numpy.grid_anchors(
        generator.base_anchors[0].tolist(), generator.strides[0], (5, 7),
        index)
    np.testing.assert_array_equal(found, expected[index])


def test_masks_are_pasted_as_mmdet_does():
    rng = np.random.default_rng(0)
    boxes = some_boxes(rng, 60, 100).clip(0, np.float32([110, 90] * 2))
    logits = rng.normal(0, 3, (60, 1, 28, 28)).astype(np.float32)
    expected = FCNMaskHead(num_classes=1, class_agnostic=True).predict_by_feat(
        [torch.from_numpy(logits)],
        [InstanceData(bboxes=torch.from_numpy(boxes.copy()),
                      labels=torch.zeros(60, dtype=torch.long))],
        [dict(scale_factor=(1, 1), ori_shape=(90, 110))],
        ConfigDict(mask_thr_binary=0.5))[0].masks.numpy()
    found = two_stage_numpy.paste(1 / (1 + np.exp(-logits[:, 0])), boxes,
                                  (90, 110), 0.5)
    assert expected[20:25].any()  # boxes without width are a line
    assert (found != expected).sum() <= 1e-5 * expected.sum() > 0


# ------------------------------------------------------------------ the whole
def faster(model):
    model.type = 'FasterRCNN'
    del model.roi_head.mask_head, model.roi_head.mask_roi_extractor


def mask(model):
    pass


def unusual(model):
    """Whatever has a second way, that way."""
    head = model.roi_head
    model.rpn_head.loss_cls.use_sigmoid = False
    head.bbox_roi_extractor.roi_layer.update(aligned=False, sampling_ratio=2)
    head.bbox_head.update(
        type='Shared4Conv1FCBBoxHead', conv_out_channels=8,
        norm_cfg=dict(type='GN', num_groups=2), reg_class_agnostic=True)
    head.mask_head.update(
        class_agnostic=True, norm_cfg=dict(type='GN', num_groups=2),
        upsample_cfg=dict(type='bilinear', scale_factor=2))
    model.test_cfg.rpn.update(min_bbox_size=4, nms_pre=-1, max_per_img=40)
    model.test_cfg.rcnn.nms.class_agnostic = True


def cascade(model):
    head = model.roi_head
    model.type, head.type = 'CascadeRCNN', 'CascadeRoIHead'
    stds = [0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.03] * 4
    head.update(
        num_stages=3, stage_loss_weights=[1, 1, 1],
        bbox_head=[dict(head.bbox_head, reg_class_agnostic=k > 0, bbox_coder=(
            dict(type='DeltaXYWHBBoxCoder', target_stds=std)))
            for k, std in enumerate(stds)])
    model.train_cfg = None


def make(change):
    """A config and its detector, whose boxes differ in all they have."""
    cfg = Config.fromfile(CONFIG)
    model, width = cfg.model, 8
    model.backbone = dict(type='VoVNet', arch=TINY, out_indices=(1, 2, 3))
    model.neck.update(in_channels=[16, 16, 16], out_channels=width)
    model.rpn_head.update(in_channels=width, feat_channels=width)
    head = model.roi_head
    head.bbox_head.update(in_channels=width, fc_out_channels=32)
    head.mask_head.update(in_channels=width, conv_out_channels=width)
    for extractor in head.bbox_roi_extractor, head.mask_roi_extractor:
        extractor.update(out_channels=width)
    model.test_cfg.rcnn.update(score_thr=0.3, max_per_img=1000)
    change(model)
    torch.manual_seed(0)
    detector = MODELS.build(model)
    detector.dataset_meta = dict(classes=CLASSES)
    for name, layer in detector.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            gain = 0.2 if name.endswith('reg') else 2**0.5
            nn.init.normal_(layer.weight, 0,
                            gain * layer.weight[0].numel()**-0.5)
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1
    with torch.no_grad():
        detector.backbone.train(), detector.neck.train()
        detector.extract_feat(torch.randn(2, 3, 96, 128))
    detector.eval()
    return cfg, detector


def modules_as_sessions(graphs):
    """Run the graphs' modules themselves: no exporter, no runtime."""
    def session(graph):
        @torch.no_grad()
        def run(**inputs):
            found = graph.module(*map(torch.as_tensor, inputs.values()))
            found = [found] if torch.is_tensor(found) else found
            return dict(zip(graph.outputs, map(np.asarray, found),
                            strict=True))
        run.inputs = list(graph.inputs)
        return run
    return {graph.name: session(graph) for graph in graphs}


def same(found, expected, boxes=1e-3):
    """Equal detections: enough of them, not all alike."""
    assert 5 <= len(expected.boxes) and len(np.unique(expected.labels)) > 1
    away = np.abs(found.boxes[:, None] - expected.boxes).max(2)
    away[found.labels[:, None] != expected.labels] = np.inf
    match = away.argmin(0)  # scores equal but for rounding may change places
    assert sorted(match) == list(range(len(found.boxes)))
    assert away.min(0).max() <= boxes
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.scores[match], expected.scores, atol=1e-4)
    assert (found.masks is None) == (expected.masks is None)
    if expected.masks is not None:
        assert expected.masks.any()
        assert (found.masks[match] != expected.masks).mean() < 1e-4


@pytest.mark.parametrize('change', [faster, mask, unusual, cascade])
def test_equals_mmdets_predict(change):
    cfg, model = make(change)
    graphs, extra = two_stage.build(model, cfg, (96, 128), dynamic=True,
                                    normalize=False, maps=False)
    picture = Picture(np.random.default_rng(0).standard_normal(
        (1, 3, 96, 128), np.float32), (90, 120), (0.6, 0.5), (180, 200))
    sample = DetDataSample(metainfo=dict(
        img_shape=picture.size, scale_factor=picture.scale,
        ori_shape=picture.original))
    with torch.no_grad():
        expected = model.predict(torch.from_numpy(picture.image),
                                 [sample])[0].pred_instances
    same(Detections(*two_stage_numpy.run(
        modules_as_sessions(graphs), extra, picture)), Detections(
            *(getattr(expected, name).numpy()
              for name in ('bboxes', 'scores', 'labels')),
            expected.masks.numpy() if 'masks' in expected else None))


@pytest.mark.parametrize('change', [faster, mask, cascade])
def test_no_proposals_and_no_detections(change):
    cfg, model = make(change)
    graphs, extra = two_stage.build(model, cfg, (64, 64), dynamic=False,
                                    normalize=False, maps=False)
    sessions = modules_as_sessions(graphs)
    picture = Picture(np.zeros((1, 3, 64, 64), np.float32), (64, 64), (1, 1),
                      (70, 80))
    for part, value in ((extra['test'], dict(score_thr=1.1)),
                        (extra['two_stage']['rpn'],
                         dict(min_bbox_size=1000))):
        part.update(value)
        boxes, scores, labels, masks = two_stage_numpy.run(
            sessions, extra, picture)
        assert (boxes.shape, scores.shape, labels.shape) == (
            (0, 4), (0, ), (0, ))
        assert masks is None if change is faster else (
            masks.shape == (0, 70, 80))


def pictures():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, size, dtype=np.uint8)
            for size in ((120, 160, 3), (200, 90, 3))]


@pytest.mark.parametrize('change, options', [
    (faster, dict(dynamic=True)),
    (mask, dict(dynamic=True, normalize=True)),
    (unusual, dict(shape=(160, 160), opset=12)),
    (cascade, dict(dynamic=True)),
    (faster, dict(shape=(160, 160), exporter='dynamo')),
])
def test_files_find_what_the_model_finds(change, options, tmp_path):
    cfg, model = make(change)
    files = export_detector(model, cfg, tmp_path / 'a.onnx', **options)
    assert [file.name for file in files] == [
        'a.onnx', 'a.roi.onnx',
        *(['a.roi2.onnx', 'a.roi3.onnx'] if change is cascade else []),
        *(['a.mask.onnx'] if change is not faster else [])]
    for backend in 'onnxruntime', 'openvino':
        detector = Detector(files[0], backend=backend, threads=1)
        for picture in pictures():
            same(detector.detect(picture),
                 detect(model, cfg, picture, detector.metadata), 0.02)


def test_runs_without_torch(tmp_path):
    cfg, model = make(mask)
    file, *_ = export_detector(model, cfg, tmp_path / 'a.onnx')
    picture = pictures()[0]
    np.save(tmp_path / 'in.npy', picture)
    subprocess.run([sys.executable, '-W', 'error', '-c', """
import sys
for name in 'torch', 'torchvision', 'mmcv', 'mmengine', 'mmdet':
    sys.modules[name] = None
import numpy as np
from vovnet.deploy.onnx import Detector
found = Detector('a.onnx').detect(np.load('in.npy'))
np.savez('out.npz', **found._asdict())
"""], check=True, cwd=tmp_path, env=dict(
        os.environ, PYTHONPATH=str(ROOT / 'projects')))
    found = Detections(**np.load(tmp_path / 'out.npz'))
    same(found, detect(model, cfg, picture, Detector(file).metadata), 0.02)


def set_nms(model):
    model.test_cfg.rcnn.nms = dict(type='soft_nms', iou_threshold=0.5)


def set_extractor(model):
    model.roi_head.bbox_roi_extractor.update(
        type='GenericRoIExtractor', finest_scale=None)
    del model.roi_head.bbox_roi_extractor.finest_scale


def set_head(model):
    model.roi_head.type = 'DoubleHeadRoIHead'
    model.roi_head.reg_roi_scale_factor = 1.3


def set_coder(model):
    model.roi_head.bbox_head.bbox_coder.type = 'LegacyDeltaXYWHBBoxCoder'


@pytest.mark.parametrize('change, message', [
    (set_nms, "test_cfg has .*'soft_nms'.* knows nms"),
    (set_extractor, 'GenericRoIExtractor: .* no path'),
    (set_head, 'DoubleHeadRoIHead: .* no path'),
    (set_coder, 'LegacyDeltaXYWHBBoxCoder: .* no path'),
])
def test_parts_without_a_path_are_refused(change, message, tmp_path):
    cfg, model = make(change)
    with pytest.raises(UserError, match=message):
        export_detector(model, cfg, tmp_path / 'a.onnx')
    assert not list(tmp_path.iterdir())


def test_maps_alone_are_refused(tmp_path):
    cfg, model = make(faster)
    with pytest.raises(UserError, match='--maps: .* leave the option out'):
        export_detector(model, cfg, tmp_path / 'a.onnx', maps=True)
