"""Two-stage detectors without torch find what mmdet's ``predict`` finds.

Weights are random, and large enough to tell boxes apart.
"""
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from one_stage_detectors import CLASSES, write
from torch import nn

from vovnet.deploy.export import two_stage
from vovnet.deploy.export.export import build_graphs
from vovnet.deploy.export.verify import detect_with_model
from vovnet.deploy.onnx import two_stage_postprocess as postprocess
from vovnet.deploy.onnx.detector import Detector
from vovnet.deploy.onnx.session import Detections, PreprocessedImage
from vovnet.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/demo/mask-rcnn_vovnet-27-slim_fpn_shapes.py'
TINY = dict(
    num_blocks=(1, 1, 1, 1), num_layers=2, stem_channels=(8, 8, 8),
    stage_channels=(8, 8, 8, 8), aggregated_channels=(8, 16, 16, 16))


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
            found = graph.module(*(torch.as_tensor(inputs[name])
                                   for name in graph.inputs))
            found = [found] if torch.is_tensor(found) else found
            return dict(zip(graph.outputs, map(np.asarray, found),
                            strict=True))
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
    graphs, extra = two_stage.build(model, (96, 128), dynamic=True,
                                    normalize=False, maps=False)
    picture = PreprocessedImage(np.random.default_rng(0).standard_normal(
        (1, 3, 96, 128), np.float32), (90, 120), (0.6, 0.5), (180, 200))
    sample = DetDataSample(metainfo=dict(
        img_shape=picture.size, scale_factor=picture.scale,
        ori_shape=picture.original))
    with torch.no_grad():
        expected = model.predict(torch.from_numpy(picture.image),
                                 [sample])[0].pred_instances
    found = postprocess.detect(modules_as_sessions(graphs), extra, picture)
    same(found, Detections(
        *(getattr(expected, name).numpy()
          for name in ('bboxes', 'scores', 'labels')),
        expected.masks.numpy() if 'masks' in expected else None))


@pytest.mark.parametrize('change', [faster, mask, cascade])
def test_no_proposals_and_no_detections(change):
    cfg, model = make(change)
    graphs, extra = two_stage.build(model, (64, 64), dynamic=False,
                                    normalize=False, maps=False)
    sessions = modules_as_sessions(graphs)
    picture = PreprocessedImage(
        np.zeros((1, 3, 64, 64), np.float32), (64, 64), (1, 1), (70, 80))
    for part, value in ((extra['test'], dict(score_thr=1.1)),
                        (extra['two_stage']['rpn'],
                         dict(min_bbox_size=1000))):
        part.update(value)
        boxes, scores, labels, masks = postprocess.detect(
            sessions, extra, picture)
        assert (boxes.shape, scores.shape, labels.shape) == (
            (0, 4), (0, ), (0, ))
        assert masks is None if change is faster else (
            masks.shape == (0, 70, 80))


def pictures():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, size, dtype=np.uint8)
            for size in ((120, 160, 3), (200, 90, 3))]


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """Export a detector, each way once: (model, config, files)."""
    @functools.cache
    def export(change, **options):
        cfg, model = make(change)
        file = tmp_path_factory.mktemp('exported') / 'a.onnx'
        return model, cfg, write(model, cfg, file, **options)
    return export


@pytest.mark.parametrize('change, options', [
    (faster, dict(dynamic=True)),
    (mask, dict(dynamic=True, normalize=True)),
    (unusual, dict(shape=(160, 160), opset=12)),
    (cascade, dict(dynamic=True)),
    (faster, dict(shape=(160, 160), exporter='dynamo')),
])
def test_files_find_what_the_model_finds(change, options, exported):
    model, cfg, files = exported(change, **options)
    assert [file.name for file in files] == [
        'a.onnx', 'a.roi.onnx',
        *(['a.roi2.onnx', 'a.roi3.onnx'] if change is cascade else []),
        *(['a.mask.onnx'] if change is not faster else [])]
    for backend in 'onnxruntime', 'openvino':
        detector = Detector(files[0], backend=backend, threads=1)
        for picture in pictures():
            same(detector.detect(picture),
                 detect_with_model(model, cfg, picture, detector.metadata),
                 0.02)


def test_runs_without_torch(tmp_path, exported):
    model, cfg, files = exported(mask, dynamic=True, normalize=True)
    picture = pictures()[0]
    np.save(tmp_path / 'in.npy', picture)
    subprocess.run([sys.executable, '-W', 'error', '-c', """
import sys
for name in 'torch', 'torchvision', 'mmcv', 'mmengine', 'mmdet':
    sys.modules[name] = None
import numpy as np
from vovnet.deploy.onnx import Detector
found = Detector(sys.argv[1]).detect(np.load('in.npy'))
np.savez('out.npz', **found._asdict())
""", str(files[0])], check=True, cwd=tmp_path, env=dict(
        os.environ, PYTHONPATH=str(ROOT / 'projects')))
    found = Detections(**np.load(tmp_path / 'out.npz'))
    same(found, detect_with_model(model, cfg, picture,
                                  Detector(files[0]).metadata), 0.02)


def generic_extractor(model):
    extractor = model.roi_head.bbox_roi_extractor
    extractor.type = 'GenericRoIExtractor'
    del extractor.finest_scale


@pytest.mark.parametrize('change, options, message', [
    (lambda model: model.test_cfg.rcnn.nms.update(type='soft_nms'), {},
     "StandardRoIHead: test_cfg.nms is .*'soft_nms'"),
    (generic_extractor, {}, 'GenericRoIExtractor: .* no path'),
    (lambda model: model.roi_head.update(
        type='DoubleHeadRoIHead', reg_roi_scale_factor=1.3), {},
     'DoubleHeadRoIHead: .* no path'),
    (lambda model: model.roi_head.bbox_head.bbox_coder.update(
        type='LegacyDeltaXYWHBBoxCoder'), {},
     'LegacyDeltaXYWHBBoxCoder: .* no path'),
    (faster, dict(maps=True), '--maps: .* leave the option out'),
])
def test_what_has_no_path_is_refused(change, options, message):
    cfg, model = make(change)
    with pytest.raises(UserError, match=message):
        build_graphs(model, cfg, **options)
