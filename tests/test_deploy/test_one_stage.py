"""One-stage detectors as ONNX find what mmdet's own inference finds."""
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from one_stage_detectors import (
    ARCH,
    CLASSES,
    HEADS,
    PADDED,
    make_detector,
    pictures,
    write,
)

from vovnet.deploy.export import export, one_stage
from vovnet.deploy.export.verify import verify_detector
from vovnet.deploy.onnx.detector import Detector
from vovnet.deploy.onnx.session import BACKENDS
from vovnet.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHAPE = 96, 128


def mmdets(model, cfg, image, shape=None):
    """What mmdet finds in a picture; in a batch with one of ``shape``."""
    steps = [dict(step) for step in cfg.test_dataloader.dataset.pipeline]
    steps[0] = dict(type='LoadImageFromNDArray')
    del steps[2]
    data = [Compose(steps)(dict(img=image, img_id=0))]
    if shape:
        other = Compose(steps[:1] + steps[2:])(
            dict(img=np.zeros((*shape, 3), np.uint8), img_id=1,
                 scale_factor=(1., 1.)))
        other['data_samples'].set_metainfo(dict(scale_factor=(1., 1.)))
        data.append(other)
    with torch.no_grad():
        return model.test_step(pseudo_collate(data))[0].pred_instances


@pytest.mark.parametrize('name, options', [
    *((name, {}) for name in HEADS),
    ('fcos', dict(normalize=True)),
    ('refinedet', dict(normalize=True)),
    ('fcos', dict(shape=SHAPE)),
    ('retinanet', dict(shape=SHAPE, normalize=True)),
    pytest.param('retinanet_softmax',
                 dict(exporter='dynamo', normalize=True),
                 marks=pytest.mark.slow)])
def test_finds_what_mmdet_finds(name, options, exported):
    model, cfg, file = exported(name, **options)
    shape, normalize = options.get('shape'), options.get('normalize')
    image_type = onnx.load(file).graph.input[0].type.tensor_type
    assert (image_type.elem_type == onnx.TensorProto.UINT8) == bool(normalize)
    if shape:
        assert [dim.dim_value for dim in image_type.shape.dim] == (
            [1, 96, 128, 3] if normalize else [1, 3, 96, 128])
    for backend in BACKENDS[:1] if options else BACKENDS:
        detector = Detector(file, backend=backend)
        assert detector.classes == list(CLASSES)
        free = detector.metadata['shape'] is None
        assert free == (name in PADDED and not shape)
        for image in pictures():
            assert detector.preprocess(image).image.dtype == (
                np.uint8 if normalize else np.float32)
            found = detector.detect(image)
            expected = mmdets(model, cfg, image, shape)
            assert len(found.scores) == len(expected.scores) > 5
            np.testing.assert_allclose(found.scores, expected.scores,
                                       atol=1e-4)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_allclose(found.boxes, expected.bboxes,
                                       atol=0.05)
            assert len(set(found.labels.tolist())) > 1


@pytest.mark.parametrize('folder, free', [
    ('dsod', False), ('fcos', True), ('pelee', False), ('refinedet', False),
    ('retinanet', True), ('rtmdet', False), ('ssd', False)])
def test_recipes_have_a_path(folder, free):
    """With a small backbone, one of each; the large ones are as they are."""
    files = sorted((ROOT / 'configs' / folder).glob('*.py'))
    cfg = Config.fromfile(files[-1])
    cfg.model.backbone = dict(type='VoVNet', arch=ARCH)
    model = MODELS.build(cfg.model)
    assert one_stage._create_decoder(model).test.max_per_img > 0
    preprocess = export.describe_preprocessing(model, cfg)
    assert preprocess['mean'] and preprocess['resize']
    assert export.allows_any_size(preprocess) == free


@pytest.mark.parametrize('name, shape, sizes', [
    ('retinanet', (32, 64), [(32, 32), (32, 54), (32, 17)]),
    ('dsod', (72, 80), [(72, 80)] * 3)])
def test_pictures_are_made_to_fit_a_fixed_shape(name, shape, sizes, exported):
    model, cfg, file = exported(name, shape=shape)
    detector = Detector(file)
    assert [detector.preprocess(image).size for image in pictures()] == sizes
    verify_detector(model, cfg, file, pictures())


@pytest.mark.parametrize('name, parts', [
    ('fcos', ['scores', 'deltas', 'centerness']),
    ('refinedet', ['arm_scores', 'arm_deltas', 'odm_scores', 'odm_deltas'])])
def test_maps_alone(name, parts, exported):
    model, cfg, file = exported(name, maps=True)
    graph = onnx.load(file).graph
    assert [value.name for value in graph.input] == ['image']
    assert not {'NonMaxSuppression', 'TopK'} & {n.op_type for n in graph.node}
    detector, image = Detector(file), pictures()[1]
    picture = detector.preprocess(image)
    with torch.no_grad():
        maps = model.bbox_head(model.extract_feat(
            torch.from_numpy(picture.image)))
    found = detector.run(picture)
    assert list(found) == [f'{part}_{i}' for part in parts
                           for i in range(len(maps[0]))]
    for x, y in zip(found.values(), [y for levels in maps for y in levels]):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3)
    one, two = verify_detector(model, cfg, file, [image])
    assert 'onnxruntime: 1 pictures, ' in str(one) and 'maps' in str(one)
    assert two.backend == 'openvino' and two.scores < 1e-5
    with pytest.raises(UserError, match='maps, not detections'):
        detector.detect(image)


@pytest.mark.parametrize('head, test', [
    ('retinanet', dict(nms=dict(iou_threshold=0.3, class_agnostic=True))),
    ('retinanet', dict(max_per_img=3)),
    ('dsod', dict(nms_pre=0, min_bbox_size=-1)),
    ('refinedet', dict(score_thr=0.3))])
def test_options_of_the_test(head, test, tmp_path):
    many = dict(max_per_img=500)
    model, cfg = make_detector(head, many | test)
    file, = write(model, cfg, tmp_path / 'd.onnx')
    image = pictures()[1]
    found, expected = Detector(file).detect(image), mmdets(model, cfg, image)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes, expected.bboxes, atol=0.05)
    default, cfg = make_detector(head, many)
    assert len(mmdets(default, cfg, image)) != len(expected) > 0


def test_nothing_found(tmp_path):
    model, cfg = make_detector('retinanet', dict(score_thr=1.))
    file, = write(model, cfg, tmp_path / 'd.onnx')
    for backend in BACKENDS:
        found = Detector(file, backend=backend).detect(pictures()[0])
        assert [x.shape for x in found[:3]] == [(0, 4), (0, ), (0, )]
    with pytest.raises(UserError, match='finds nothing on 3 .*--images'):
        verify_detector(model, cfg, file, pictures())


@pytest.mark.parametrize('name, test, head, message', [
    ('retinanet', dict(nms=dict(type='soft_nms', iou_threshold=0.3)), {},
     'RetinaHead: .*soft_nms'),
    ('retinanet', dict(min_bbox_size=5), {}, 'RetinaHead: .*min_bbox_size'),
    ('retinanet', dict(nms_pre=-1), {}, 'RetinaHead: .*nms_pre'),
    ('retinanet', {}, dict(bbox_coder=dict(type='LegacyDeltaXYWHBBoxCoder')),
     'LegacyDeltaXYWHBBoxCoder'),
    ('retinanet_softmax', {}, dict(
        type='GFLHead', norm_cfg=dict(type='BN'),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True)),
     'GFLHead: .* no path')])
def test_heads_without_a_path(name, test, head, message):
    with pytest.raises(UserError, match=message):
        export.build_graphs(*make_detector(name, test, **head))
