"""One-stage detectors as ONNX find what mmdet's own way finds.

Own work. What is expected comes from mmdet: its test pipeline, its batches,
``model.test_step``.
"""
from pathlib import Path

import cv2
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
)

from vovnet.deploy.export import export, one_stage, verify
from vovnet.deploy.export.export import export_detector
from vovnet.deploy.onnx.detector import Detections, Detector
from vovnet.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


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


def assert_equal(found, expected):
    assert len(found.scores) == len(expected.scores) > 5
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes, expected.bboxes, atol=0.05)
    assert len(set(found.labels.tolist())) > 1


@pytest.mark.parametrize('name', list(HEADS))
def test_finds_what_mmdet_finds(name, tmp_path):
    model, cfg = make_detector(name)
    file, = export_detector(model, cfg, tmp_path / 'd.onnx')
    for backend in 'onnxruntime', 'openvino':
        detector = Detector(file, backend=backend)
        assert detector.classes == list(CLASSES)
        free = detector.metadata['shape'] is None
        assert free == (name in PADDED)
        for image in pictures():
            assert_equal(detector.detect(image), mmdets(model, cfg, image))


@pytest.mark.parametrize('folder, free', [
    ('dsod', False), ('fcos', True), ('pelee', False), ('refinedet', False),
    ('retinanet', True), ('rtmdet', False), ('ssd', False)])
def test_recipes_have_a_path(folder, free):
    """With a small backbone, one of each; the large ones are as they are."""
    files = sorted((ROOT / 'configs' / folder).glob('*.py'))
    cfg = Config.fromfile(files[-1])
    cfg.model.backbone = dict(type='VoVNet', arch=ARCH)
    model = MODELS.build(cfg.model)
    assert one_stage._decoder(model).test.max_per_img > 0
    preprocess = export.preprocessing(model, cfg)
    assert preprocess['mean'] and preprocess['resize']
    assert export.is_free(preprocess) == free


@pytest.mark.parametrize('name', ['fcos', 'refinedet'])
def test_normalises_inside(name, tmp_path):
    model, cfg = make_detector(name)
    file, = export_detector(model, cfg, tmp_path / 'd.onnx', normalize=True)
    assert onnx.load(file).graph.input[0].type.tensor_type.elem_type == \
        onnx.TensorProto.UINT8
    detector = Detector(file)
    for image in pictures():
        assert detector.prepare(image).image.dtype == np.uint8
        assert_equal(detector.detect(image), mmdets(model, cfg, image))


@pytest.mark.parametrize('name', ['retinanet', 'fcos'])
@pytest.mark.parametrize('normalize', [False, True])
def test_fixed_shape(name, normalize, tmp_path):
    model, cfg = make_detector(name)
    file, = export_detector(model, cfg, tmp_path / 'd.onnx', shape=(96, 128),
                            normalize=normalize)
    sides = [dim.dim_value for dim in
             onnx.load(file).graph.input[0].type.tensor_type.shape.dim]
    assert sides == ([1, 96, 128, 3] if normalize else [1, 3, 96, 128])
    detector = Detector(file)
    for image in pictures():
        assert_equal(detector.detect(image),
                     mmdets(model, cfg, image, (96, 128)))


def test_pictures_are_made_to_fit_a_fixed_shape(tmp_path):
    model, cfg = make_detector('retinanet')
    images = pictures()
    file, = export_detector(model, cfg, tmp_path / 'd.onnx', shape=(32, 64))
    detector = Detector(file)
    assert [detector.prepare(image).size for image in images] == [
        (32, 32), (32, 54), (32, 17)]
    verify.verify(model, cfg, file, images)
    model, cfg = make_detector('dsod')
    file, = export_detector(model, cfg, tmp_path / 's.onnx', shape=(72, 80))
    assert Detector(file).prepare(images[1]).size == (72, 80)
    verify.verify(model, cfg, file, images)


@pytest.mark.slow
def test_dynamo(tmp_path):
    model, cfg = make_detector('retinanet')
    file, = export_detector(model, cfg, tmp_path / 'd.onnx',
                            exporter='dynamo', normalize=True)
    detector = Detector(file)
    assert detector.metadata['shape'] is None
    for image in pictures():
        assert_equal(detector.detect(image), mmdets(model, cfg, image))


@pytest.mark.parametrize('name, parts', [
    ('fcos', ['scores', 'deltas', 'centerness']),
    ('refinedet', ['arm_scores', 'arm_deltas', 'odm_scores', 'odm_deltas'])])
def test_maps_alone(name, parts, tmp_path):
    model, cfg = make_detector(name)
    file, = export_detector(model, cfg, tmp_path / 'd.onnx', maps=True)
    graph = onnx.load(file).graph
    assert [value.name for value in graph.input] == ['image']
    assert not {'NonMaxSuppression', 'TopK'} & {n.op_type for n in graph.node}
    detector, image = Detector(file), pictures()[1]
    picture = detector.prepare(image)
    with torch.no_grad():
        maps = model.bbox_head(model.extract_feat(
            torch.from_numpy(picture.image)))
    found = detector.run(picture)
    assert list(found) == [f'{part}_{i}' for part in parts
                           for i in range(len(maps[0]))]
    for x, y in zip(found.values(), [y for levels in maps for y in levels]):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3)
    one, two = verify.verify(model, cfg, file, [image])
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
    file, = export_detector(model, cfg, tmp_path / 'd.onnx')
    image = pictures()[1]
    found, expected = Detector(file).detect(image), mmdets(model, cfg, image)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes, expected.bboxes, atol=0.05)
    default, cfg = make_detector(head, many)
    assert len(mmdets(default, cfg, image)) != len(expected) > 0


def test_nothing_found(tmp_path):
    model, cfg = make_detector('retinanet', dict(score_thr=1.))
    file, = export_detector(model, cfg, tmp_path / 'd.onnx')
    for backend in 'onnxruntime', 'openvino':
        found = Detector(file, backend=backend).detect(pictures()[0])
        assert [x.shape for x in found[:3]] == [(0, 4), (0, ), (0, )]
    with pytest.raises(UserError, match='finds nothing on 3 .*--images'):
        verify.verify(model, cfg, file, pictures())


# ------------------------------------------------- comparing with the model
def test_a_difference_is_an_error_and_leaves_nothing(tmp_path):
    model, cfg = make_detector('retinanet')
    file = tmp_path / 'd.onnx'
    file.write_bytes(b'an older file')

    def check(part):
        with torch.no_grad():  # as if the exporter had lost a weight
            model.bbox_head.retina_reg.weight[0] += 0.2
        verify.verify(model, cfg, part, pictures())

    with pytest.raises(UserError, match=r'^d.onnx: is not equal to the model'
                       r'.* boxes differ by \d.* px, .* on one side alone'):
        export_detector(model, cfg, file, check=check)
    assert file.read_bytes() == b'an older file'
    assert list(tmp_path.iterdir()) == [file]


def test_a_difference_of_maps_is_an_error(tmp_path):
    model, cfg = make_detector('fcos')
    file, = export_detector(model, cfg, tmp_path / 'd.onnx', maps=True)
    with torch.no_grad():
        model.bbox_head.conv_centerness.bias += 0.1
    with pytest.raises(UserError, match='not equal.* maps, which differ by'):
        verify.verify(model, cfg, file, pictures())


BOXES = np.float32([[0, 0, 10, 10], [20, 0, 30, 10], [0, 50, 40, 90]])
FOUND = Detections(BOXES, np.float32([0.9, 0.5, 0.3]), np.array([0, 1, 0]))
TEST = dict(score_thr=0.05, nms=dict(iou_threshold=0.5), max_per_img=100)


def change(found, i, **values):
    """The detections with one of them changed; None takes it away."""
    if not values:
        return Detections(*(np.delete(x, i, 0) for x in found[:3]))
    found = Detections(*(x.copy() for x in found[:3]))
    for name, value in values.items():
        getattr(found, name)[i] = value
    return found


def test_compare():
    """Fields: found, boxes, scores, masks, edges, wrong."""
    assert verify.compare(FOUND, FOUND, TEST) == (3, 0, 0, 1, 0, 0)
    # The order of detections makes no difference, the label does.
    order = Detections(*(x[[2, 0, 1]] for x in FOUND[:3]))
    assert verify.compare(FOUND, order, TEST) == (3, 0, 0, 1, 0, 0)
    other = change(FOUND, 1, labels=2)
    assert verify.compare(FOUND, other, TEST)[4:] == (0, 2)
    moved = change(FOUND, 2, boxes=BOXES[2] + 0.25, scores=0.25)
    assert verify.compare(FOUND, moved, TEST) == pytest.approx(
        (3, 0.25, 0.05, 1, 0, 0), abs=1e-6)
    # Detections of one side alone: at an edge or not.
    less = change(FOUND, 2)
    assert verify.compare(FOUND, less, TEST)[4:] == (0, 1)
    assert verify.compare(less, FOUND, TEST)[4:] == (0, 1)
    for test in (dict(TEST, score_thr=0.29995), dict(TEST, max_per_img=3)):
        assert verify.compare(FOUND, less, test)[4:] == (1, 0)
        assert verify.compare(less, FOUND, test)[4:] == (1, 0)
    # IoU 2/3 with another of its class is the threshold of NMS.
    twin = change(FOUND, 1, boxes=[2, 0, 12, 10], labels=0)
    test = dict(TEST, nms=dict(iou_threshold=2 / 3))
    assert verify.compare(twin, change(twin, 1), test)[4:] == (1, 0)
    assert verify.compare(twin, change(twin, 1), TEST)[4:] == (0, 1)
    assert verify.compare(FOUND, change(FOUND, slice(None)), TEST)[5] == 3


def test_compare_masks():
    mask = np.zeros((3, 20, 20), bool)
    mask[:, 5:15, 5:15] = True
    other = mask.copy()
    other[1, 5, 5:10] = False
    _, _, _, masks, _, wrong = verify.compare(
        FOUND._replace(masks=mask), FOUND._replace(masks=other), TEST)
    assert masks == pytest.approx(0.95) and not wrong


def test_pictures_to_compare_on(tmp_path):
    _, cfg = make_detector('dsod')
    images, source = verify.pictures(cfg, count=3)  # there are no test data
    assert 'generated shapes' in source
    assert [image.shape for image in images] == [
        (320, 320, 3), (304, 320, 3), (320, 288, 3)]
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f'{i}.png'), image)
    found, source = verify.pictures(cfg, [str(tmp_path)], 2)
    assert source == str(tmp_path) and len(found) == 2
    np.testing.assert_array_equal(found[1], images[1])
    (tmp_path / '0.png').write_text('no image')
    with pytest.raises(UserError, match='0.png: cannot be read'):
        verify.pictures(cfg, [str(tmp_path)], 2)


def test_another_accuracy_is_an_error(monkeypatch):
    values = iter([0.5, 0.5005, 0.4985])
    monkeypatch.setattr(verify, '_accuracy', lambda *args: {
        'coco/bbox_mAP': next(values), 'coco/bbox_mAP_s': -1})
    found = verify.accuracies(None, None, Path('d.onnx'))
    assert [next(found)[0], next(found)[0], next(found)[0]] == [
        'model', 'onnxruntime', 'openvino']
    with pytest.raises(UserError, match='bbox_mAP is 0.4985 in openvino, but '
                       '0.5000'):
        next(found)
    values = iter([0.5, float('nan')])
    with pytest.raises(UserError, match='bbox_mAP is nan in onnxruntime'):
        list(verify.accuracies(None, None, Path('d.onnx')))


# ----------------------------------------------------------------- bad input
def test_bad_shapes_and_options(tmp_path):
    model, cfg = make_detector('retinanet')
    file = tmp_path / 'd.onnx'
    for options, message in [
            (dict(shape=(60, 64)), '--shape 60 64: .* multiples of 32'),
            (dict(opset=0), '--opset 0:'),
            (dict(opset=9), '--opset 9: .* torchscript .* 11 to 20'),
            (dict(opset=17, exporter='dynamo'), 'dynamo .* 18 to 23'),
            (dict(exporter='none'), "'none'.* torchscript, dynamo"),
    ]:
        with pytest.raises(UserError, match=message):
            export_detector(model, cfg, file, **options)
    with pytest.raises(UserError, match='end the name in .onnx'):
        export_detector(model, cfg, tmp_path / 'd.pt')
    model, cfg = make_detector('refinedet')
    with pytest.raises(UserError, match=r'--shape 20 20: the network cannot '
                       r'take it \(RefineDetNeck'):
        export_detector(model, cfg, file, shape=(20, 20))
    assert not list(tmp_path.iterdir())


def test_what_an_exporter_cannot_do(tmp_path, monkeypatch):
    def fail(*args, **kwargs):  # the form of its errors, of many lines
        raise torch.onnx.OnnxExporterError('Step 1/3\n') from \
            AssertionError('Expected op to be ==\nfor width')

    monkeypatch.setattr(torch.onnx, 'export', fail)
    with pytest.raises(UserError, match=r'^--exporter dynamo: .* \(Expected op'
                       r' to be ==\); take the other exporter'):
        export_detector(*make_detector('dsod'), tmp_path / 'd.onnx',
                        exporter='dynamo')
    assert not list(tmp_path.iterdir())


def test_detectors_without_a_path(tmp_path):
    file = tmp_path / 'd.onnx'
    model, cfg = make_detector('fcos')
    with pytest.raises(UserError, match='^Linear: .*RetinaNet'):
        other = torch.nn.Linear(1, 1)
        other.data_preprocessor = model.data_preprocessor
        export_detector(other, cfg, file)
    model, cfg = make_detector(
        'retinanet_softmax', type='GFLHead', norm_cfg=dict(type='BN'),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True))
    with pytest.raises(UserError, match='GFLHead: .* no path'):
        export_detector(model, cfg, file)
    for test, message in [
            (dict(nms=dict(type='soft_nms', iou_threshold=0.3)), 'soft_nms'),
            (dict(min_bbox_size=5), 'min_bbox_size'),
            (dict(nms_pre=-1), 'nms_pre')]:
        with pytest.raises(UserError, match=f'RetinaHead: .*{message}'):
            export_detector(*make_detector('retinanet', test), file)
    model, cfg = make_detector('retinanet', bbox_coder=dict(
        type='LegacyDeltaXYWHBBoxCoder'))
    with pytest.raises(UserError, match='LegacyDeltaXYWHBBoxCoder'):
        export_detector(model, cfg, file)
    model, cfg = make_detector('retinanet')
    cfg.test_dataloader.dataset.pipeline.insert(
        2, dict(type='CenterCrop', crop_size=32))
    with pytest.raises(UserError, match="pipeline's CenterCrop"):
        export_detector(model, cfg, file)


@pytest.mark.parametrize('package, exporter', [
    ('onnx', 'torchscript'), ('onnxscript', 'dynamo')])
def test_missing_packages(package, exporter, tmp_path, monkeypatch):
    monkeypatch.setattr('vovnet.utils.errors.find_spec',
                        lambda name: None if name == package else name)
    with pytest.raises(UserError, match=f'^{package}: .* pip install '
                       f'{package}$'):
        export_detector(*make_detector('retinanet'), tmp_path / 'd.onnx',
                        exporter=exporter)


def test_missing_runtimes(tmp_path, monkeypatch):
    model, cfg = make_detector('dsod')
    file, = export_detector(model, cfg, tmp_path / 'd.onnx')
    monkeypatch.setattr(verify, 'find_spec', lambda name:
                        name == 'onnxruntime')
    assert [d.backend for d in verify.verify(model, cfg, file, pictures())
            ] == ['onnxruntime']
    monkeypatch.setattr('vovnet.utils.errors.find_spec', lambda name: None)
    with pytest.raises(UserError, match='pip install onnxruntime$'):
        verify.verify(model, cfg, file, pictures())


def test_the_model_is_left_as_it_was(tmp_path):
    model, cfg = make_detector('dsod')
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export_detector(model, cfg, tmp_path / 'd.onnx')
    assert not any(module.training for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_exporters_are_chosen_explicitly(tmp_path, monkeypatch):
    chosen = []
    export_onnx = torch.onnx.export

    def record(*args, **kwargs):
        chosen.append(kwargs['dynamo'])
        return export_onnx(*args, **kwargs)

    monkeypatch.setattr(export.torch.onnx, 'export', record)
    export_detector(*make_detector('dsod'), tmp_path / 'd.onnx')
    assert chosen == [False]
