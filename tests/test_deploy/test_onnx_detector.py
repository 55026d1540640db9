"""Detection without torch: what goes in, what comes out, what is refused.

Pictures are preprocessed as mmdet's pipeline and MMEngine's preprocessor do
it; run lengths are read by pycocotools.
"""
import json
import logging
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from mmcv.transforms import Compose
from mmdet.models import DetDataPreprocessor
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from one_stage_detectors import CLASSES, pictures
from pycocotools import mask as coco_mask
from torch import nn

from vovnet.deploy.export import export
from vovnet.deploy.onnx import results
from vovnet.deploy.onnx.detector import Detector, preprocess
from vovnet.deploy.onnx.session import BACKENDS, KEY, Detections, Session
from vovnet.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module', autouse=True)
def mmdet_scope():
    """Whatever a test before has left."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture
def file(exported):
    """A detector's file, which also normalizes."""
    return exported('fcos', normalize=True)[2]


# ------------------------------------------------------------------ pictures
RESIZE = dict(type='Resize', scale=(133, 80), keep_ratio=True)
COLORS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


@pytest.mark.parametrize('steps, colors', [
    ([RESIZE], dict(COLORS, bgr_to_rgb=True, pad_size_divisor=32)),
    ([dict(RESIZE, backend='pillow')],
     dict(mean=[103.53, 116.28, 123.675], std=[1., 1., 1.],
          pad_size_divisor=32)),
    ([dict(type='mmdet.Resize', scale=(60, 70), keep_ratio=False)],
     dict(mean=[104, 117, 123], std=[1, 1, 1])),
    ([dict(RESIZE, scale=(90, 90), interpolation='area'),
      dict(type='Pad', size=(90, 90), pad_val=dict(img=(114, 114, 114)))],
     dict(COLORS, bgr_to_rgb=False)),
    ([dict(type='Pad', size_divisor=16, pad_val=7)],
     dict(bgr_to_rgb=True, pad_size_divisor=10, pad_value=3)),
])
def test_pictures_are_preprocessed_as_by_mmdet(steps, colors):
    model = nn.Module()
    model.data_preprocessor = DetDataPreprocessor(**colors)
    pack = dict(type='PackDetInputs', meta_keys=(
        'img_shape', 'scale_factor', 'ori_shape'))
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'), *steps,
        dict(type='LoadAnnotations', with_bbox=True), pack]))))
    metadata = json.loads(json.dumps(dict(
        preprocess=export.describe_preprocessing(model, cfg), shape=None,
        normalize=False)))
    rng = np.random.default_rng(0)
    for size in ((97, 201), (201, 97), (80, 133), (61, 60), (333, 101)):
        image = rng.integers(256, size=(*size, 3), dtype=np.uint8)
        data = Compose([dict(type='LoadImageFromNDArray'), *steps, pack])(
            dict(img=image, scale_factor=(1., 1.)))
        expected = model.data_preprocessor(pseudo_collate([data]))
        found = preprocess(image, metadata)
        np.testing.assert_array_equal(found.image, expected['inputs'])
        meta = expected['data_samples'][0].metainfo
        assert found.size == tuple(meta['img_shape'][:2])
        assert found.scale == tuple(meta['scale_factor'])
        assert found.original == size
        assert found.image.dtype == np.float32


# ------------------------------------------------------------------- the demo
DEMO = str(ROOT / 'demo/onnx_demo.py')
WITHOUT = f'''
import runpy
import sys
for name in ('torch', 'torchvision', 'mmcv', 'mmengine', 'mmdet',
             'pycocotools'):
    sys.modules[name] = None  # as if it were not installed
sys.argv[0] = 'demo'
runpy.run_path({DEMO!r}, run_name='__main__')
'''


def run_demo(cwd, *args, start=''):
    return subprocess.run(
        [sys.executable, '-c', start + WITHOUT, *map(str, args)], cwd=cwd,
        env={'PYTHONPATH': str(ROOT / 'projects')}, capture_output=True,
        text=True)


def test_demo_without_torch(file, tmp_path):
    (tmp_path / 'in').mkdir()
    for i, image in enumerate(pictures()):
        cv2.imwrite(str(tmp_path / f'in/{i}.png'), image)
    # Files that cannot be used are named, and the others are done.
    (tmp_path / 'in/3.png').write_text('no image')
    cv2.imwrite(str(tmp_path / 'in/4.png'), np.zeros((1, 900, 3)))
    done = run_demo(tmp_path, file, 'in', '--score-thr', '0.5')
    assert done.returncode == 1
    assert [line.partition(':')[0] for line in done.stderr.splitlines()[-3:]
            ] == ['in/3.png', 'in/4.png', 'error']
    assert 'error: 2 of 5 images' in done.stderr
    for i, image in enumerate(pictures()):
        expected = Detector(file).detect(image)
        keep = expected.scores >= 0.5
        assert 0 < keep.sum() < len(keep)
        record = json.loads(
            (tmp_path / f'outputs/preds/{i}.png.json').read_text())
        assert f'in/{i}.png: {keep.sum()} objects' in done.stdout
        assert (record['height'], record['width']) == image.shape[:2]
        found = record['instances']
        np.testing.assert_allclose([x['bbox'] for x in found],
                                   expected.boxes[keep], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose([x['score'] for x in found],
                                   expected.scores[keep], rtol=1e-5)
        assert [x['class'] for x in found] == [
            CLASSES[label] for label in expected.labels[keep]]
        drawn = cv2.imread(str(tmp_path / f'outputs/vis/{i}.png'))
        assert drawn.shape == image.shape and (drawn != image).any()


@pytest.mark.parametrize('args, message', [
    (('FILE', 'nowhere'), 'nowhere: no images there'),
    (('none.onnx', 'in'), 'none.onnx: no such file'),
    (('FILE', 'in', '--providers', 'NoProvider'),
     'provider NoProvider: this onnxruntime only has ')])
def test_mistakes(args, message, file, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging, 'raiseExceptions', True)  # restored, as is
    monkeypatch.setattr(threading, 'excepthook', threading.excepthook)
    monkeypatch.setattr(sys, 'argv', [
        'demo', *(str(file) if arg == 'FILE' else arg for arg in args)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(DEMO, run_name='__main__')
    printed = capfd.readouterr().err
    assert end.value.code == 1
    assert printed.startswith(f'error: {message}'), printed
    assert len(printed.splitlines()) == 1


def test_demo_names_the_package_it_misses(tmp_path):
    done = run_demo(tmp_path, 'a.onnx', 'b',
                    start="import sys\nsys.modules['cv2'] = None\n")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        'error: cv2: is not installed, and the demo needs it; pip install '
        'opencv-python-headless')


# -------------------------------------------------------------------- refusals
def write_other(path):
    """An ONNX file of someone else's."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('Relu', ['x'], ['y'])], 'g',
        [value('x', 1, [1])], [value('y', 1, [1])])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid('', 17)],
        ir_version=8)
    onnx.save(model, str(path))
    return model


@pytest.mark.parametrize('backend', BACKENDS)
def test_files_that_are_not_ours(backend, tmp_path):
    file = tmp_path / 'x.onnx'
    model = write_other(file)
    with pytest.raises(UserError, match='x.onnx: was not written by tools/'
                       'deployment/export_onnx.py'):
        Detector(file, backend=backend)
    onnx.helper.set_model_props(model, {
        'vovnet': json.dumps(dict(format=2, classes=[]))})
    onnx.save(model, str(file))
    with pytest.raises(UserError, match='later format'):
        Detector(file, backend=backend)
    file.write_bytes(b'no ONNX file at all')
    with pytest.raises(UserError, match=f'x.onnx: {backend} cannot run it') \
            as error:
        Detector(file, backend=backend)
    assert '\n' not in str(error.value)
    with pytest.raises(UserError, match='no such file'):
        Detector(tmp_path / 'y.onnx', backend=backend)


@pytest.mark.parametrize('backend', BACKENDS)
def test_missing_runtime(backend, file, monkeypatch):
    monkeypatch.setattr('vovnet.utils.errors.find_spec', lambda name: None)
    with pytest.raises(UserError, match=f'^{backend}: is not installed.* pip '
                       f'install {backend}$'):
        Session(file, backend)


@pytest.mark.parametrize('image', [
    None, np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_what_is_no_picture(image, file):
    with pytest.raises(UserError, match='^detect: takes BGR pixels of uint8'):
        Detector(file).detect(image)


@pytest.mark.parametrize('backend', BACKENDS)
def test_threads(backend, file):
    one = Detector(file, backend=backend, threads=1)
    image = pictures()[0]
    np.testing.assert_allclose(one.detect(image).boxes,
                               Detector(file).detect(image).boxes,
                               atol=0.05)


@pytest.mark.parametrize('options, message', [
    (dict(backend='tensorrt'), "'tensorrt'.*onnxruntime, openvino"),
    (dict(backend='openvino', providers=['CUDAExecutionProvider']),
     'CUDAExecutionProvider.*ONNX Runtime'),
    (dict(threads=-3), 'threads -3')])
def test_options_that_do_not_fit(options, message, file):
    with pytest.raises(UserError, match=message):
        Session(file, **options)


def test_parts_belong_together(file, tmp_path):
    first = tmp_path / 'm.onnx'
    model = onnx.load(str(file))
    [entry] = [e for e in model.metadata_props if e.key == KEY]
    entry.value = json.dumps(dict(json.loads(entry.value),
                                  graphs=['', 'roi']))
    onnx.save(model, str(first))
    with pytest.raises(UserError, match='m.onnx: needs m.roi.onnx beside it'):
        Detector(first)
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / 'm.roi.onnx'))
    with pytest.raises(UserError, match='m.roi.onnx: .* a part of m.onnx'):
        Detector(tmp_path / 'm.roi.onnx')


# --------------------------------------------------------------------- results
def test_run_lengths_are_coco():
    """As pycocotools writes them: image_demo.py's JSON has the same."""
    rng = np.random.default_rng(0)
    masks = [rng.random((7, 5)) > 0.5, np.zeros((3, 4), bool),
             np.ones((3, 4), bool), rng.random((90, 70)) > 0.99,
             np.zeros((2000, 1500), bool)]
    masks[-1][100:900, 400:1400] = True
    for mask in masks:
        encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        record = dict(size=list(mask.shape), counts=results.encode_mask(mask))
        assert record == dict(encoded, counts=encoded['counts'].decode())


def test_drawing_and_instances():
    image = np.zeros((40, 60, 3), np.uint8)
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 20:30, 30:40] = True
    found = Detections(np.float32([[30, 20, 40, 30], [2, 12, 20, 30]]),
                       np.float32([0.9, 0.4]), np.array([3, 0]), masks)
    drawn = results.draw(image, found, CLASSES)
    assert not image.any()
    assert drawn[25, 35].any() and not drawn[35, 50].any()
    assert drawn[30, 2].any()  # a corner of the second box
    instances = results.to_instances(found.select_above(0.5), CLASSES)
    assert [(x['label'], x['class'], x['bbox']) for x in instances] == [
        (3, 'star', [30, 20, 40, 30])]
    assert instances[0]['score'] == pytest.approx(0.9)
    assert instances[0]['mask']['size'] == [40, 60]
