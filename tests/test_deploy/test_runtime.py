"""The runtime without torch: what goes in, what comes out, what it refuses.

Own work. Pictures are prepared as mmdet's pipeline and MMEngine's
preprocessor prepare them; run lengths are read by pycocotools.
"""
import json
import subprocess
import sys
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
from one_stage_detectors import CLASSES, make_detector, pictures
from pycocotools import mask as coco_mask
from torch import nn

from vovnet.deploy.export import export
from vovnet.deploy.onnx import detector as runtime
from vovnet.deploy.onnx import results
from vovnet.deploy.onnx.detector import Detections, Detector, Session
from vovnet.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module', autouse=True)
def mmdet_scope():
    """Whatever a test before has left."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A detector's file, which also normalises."""
    file = tmp_path_factory.mktemp('exported') / 'fcos.onnx'
    export.export_detector(*make_detector('fcos'), file, normalize=True)
    return file


# ------------------------------------------------------------------ pictures
RESIZE = dict(type='Resize', scale=(133, 80), keep_ratio=True)
COLOURS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


@pytest.mark.parametrize('steps, colours', [
    ([RESIZE], dict(COLOURS, bgr_to_rgb=True, pad_size_divisor=32)),
    ([dict(RESIZE, backend='pillow')],
     dict(mean=[103.53, 116.28, 123.675], std=[1., 1., 1.],
          pad_size_divisor=32)),
    ([dict(type='mmdet.Resize', scale=(60, 70), keep_ratio=False)],
     dict(mean=[104, 117, 123], std=[1, 1, 1])),
    ([dict(RESIZE, scale=(90, 90), interpolation='area'),
      dict(type='Pad', size=(90, 90), pad_val=dict(img=(114, 114, 114)))],
     dict(COLOURS, bgr_to_rgb=False)),
    ([dict(type='Pad', size_divisor=16, pad_val=7)],
     dict(bgr_to_rgb=True, pad_size_divisor=10, pad_value=3)),
])
def test_pictures_are_prepared_as_by_mmdet(steps, colours):
    model = nn.Module()
    model.data_preprocessor = DetDataPreprocessor(**colours)
    pack = dict(type='PackDetInputs', meta_keys=(
        'img_shape', 'scale_factor', 'ori_shape'))
    cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[
        dict(type='LoadImageFromFile'), *steps,
        dict(type='LoadAnnotations', with_bbox=True), pack]))))
    metadata = json.loads(json.dumps(dict(
        preprocess=export.preprocessing(model, cfg), shape=None,
        normalize=False)))
    rng = np.random.default_rng(0)
    for size in ((97, 201), (201, 97), (80, 133), (61, 60), (333, 101)):
        image = rng.integers(256, size=(*size, 3), dtype=np.uint8)
        data = Compose([dict(type='LoadImageFromNDArray'), *steps, pack])(
            dict(img=image, scale_factor=(1., 1.)))
        expected = model.data_preprocessor(pseudo_collate([data]))
        found = runtime.prepare(image, metadata)
        np.testing.assert_array_equal(found.image, expected['inputs'])
        meta = expected['data_samples'][0].metainfo
        assert found.size == tuple(meta['img_shape'][:2])
        assert found.scale == tuple(meta['scale_factor'])
        assert found.original == size
        assert found.image.dtype == np.float32


# --------------------------------------------------------------- without torch
WITHOUT = '''
import sys
for name in ('torch', 'torchvision', 'mmcv', 'mmengine', 'mmdet'):
    sys.modules[name] = None  # as if it were not installed
'''


def python(code, *args, cwd):
    return subprocess.run(
        [sys.executable, '-c', WITHOUT + code, *map(str, args)], cwd=cwd,
        env={'PYTHONPATH': str(ROOT / 'projects')}, capture_output=True,
        text=True)


def test_detects_where_torch_is_not_installed(exported, tmp_path):
    image = pictures()[1]
    np.save(tmp_path / 'image.npy', image)
    done = python('''
import numpy as np
from vovnet.deploy.onnx import Detector
found = Detector(sys.argv[1]).detect(np.load('image.npy'))
np.savez('found.npz', *found[:3])
loaded = {name.partition('.')[0] for name in sys.modules
          if sys.modules[name] is not None}
assert not loaded & {'torch', 'mmcv', 'mmengine', 'mmdet', 'pycocotools'}
''', exported, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / 'found.npz')
    expected = Detector(exported).detect(image)
    assert len(expected.scores) > 5
    for x, y in zip(found.values(), expected):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def demo(cwd, *args, start=''):
    return python(f"{start}import runpy; sys.argv[0] = 'demo'; runpy.run_path("
                  f"{str(ROOT / 'demo/onnx_demo.py')!r}, "
                  "run_name='__main__')", *args, cwd=cwd)


def test_demo(exported, tmp_path):
    (tmp_path / 'in').mkdir()
    for i, image in enumerate(pictures()):
        cv2.imwrite(str(tmp_path / f'in/{i}.png'), image)
    done = demo(tmp_path, exported, 'in', '--score-thr', '0.5')
    assert done.returncode == 0, done.stderr
    for i, image in enumerate(pictures()):
        expected = Detector(exported).detect(image)
        keep = expected.scores >= 0.5
        assert 0 < keep.sum() < len(keep)
        record = json.loads(
            (tmp_path / f'outputs/preds/{i}.png.json').read_text())
        assert f'in/{i}.png: {keep.sum()} objects' in done.stdout
        assert (record['height'], record['width']) == image.shape[:2]
        found = record['instances']
        np.testing.assert_allclose([x['bbox'] for x in found],
                                   expected.boxes[keep], rtol=1e-4, atol=1e-4)
        assert [x['class'] for x in found] == [
            CLASSES[label] for label in expected.labels[keep]]
        drawn = cv2.imread(str(tmp_path / f'outputs/vis/{i}.png'))
        assert drawn.shape == image.shape and (drawn != image).any()
    # A file that is no image is named, and the others are done.
    (tmp_path / 'in/1.png').write_text('no image')
    cv2.imwrite(str(tmp_path / 'in/2.png'), np.zeros((1, 900, 3)))
    done = demo(tmp_path, exported, 'in')
    assert done.returncode == 1
    assert [line.partition(':')[0] for line in done.stderr.splitlines()[-3:]
            ] == ['in/1.png', 'in/2.png', 'error']
    assert 'error: 2 of 3 images' in done.stderr
    for args, message in [
            ((exported, 'nowhere'), 'nowhere: no images there'),
            (('none.onnx', 'in'), 'none.onnx: no such file'),
            ((exported, 'in', '--providers', 'NoProvider'),
             'provider NoProvider: is not in this onnxruntime')]:
        done = demo(tmp_path, *args)
        assert done.returncode == 1
        assert done.stderr.startswith(f'error: {message}'), done.stderr
        assert len(done.stderr.splitlines()) == 1


# -------------------------------------------------------------------- refusals
def other_file(path):
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


@pytest.mark.parametrize('backend', runtime.BACKENDS)
def test_files_that_are_not_ours(backend, tmp_path):
    file = tmp_path / 'x.onnx'
    model = other_file(file)
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


@pytest.mark.parametrize('backend', runtime.BACKENDS)
def test_missing_runtime(backend, exported, monkeypatch):
    monkeypatch.setattr('vovnet.utils.errors.find_spec', lambda name: None)
    with pytest.raises(UserError, match=f'^{backend}: is not installed.* pip '
                       f'install {backend}$'):
        Session(exported, backend)


def test_unknown_backend(exported):
    with pytest.raises(UserError, match="'tensorrt'.*onnxruntime, openvino"):
        Session(exported, 'tensorrt')


@pytest.mark.parametrize('image', [
    None, np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_what_is_no_picture(image, exported):
    with pytest.raises(UserError, match='^detect: takes BGR pixels of uint8'):
        Detector(exported).detect(image)


@pytest.mark.parametrize('backend', runtime.BACKENDS)
def test_threads(backend, exported):
    one = Detector(exported, backend=backend, threads=1)
    image = pictures()[0]
    np.testing.assert_allclose(one.detect(image).boxes,
                               Detector(exported).detect(image).boxes,
                               atol=0.05)


def test_options_that_do_not_fit(exported):
    with pytest.raises(UserError, match='CUDAExecutionProvider.*ONNX Runtime'):
        Session(exported, 'openvino', ['CUDAExecutionProvider'])
    with pytest.raises(UserError, match='threads -3'):
        Session(exported, threads=-3)


def test_parts_belong_together(exported, tmp_path):
    first = tmp_path / 'm.onnx'
    model = onnx.load(str(exported))
    [entry] = [e for e in model.metadata_props if e.key == runtime.KEY]
    entry.value = json.dumps(dict(json.loads(entry.value),
                                  graphs=['', 'roi']))
    onnx.save(model, str(first))
    with pytest.raises(UserError, match='m.onnx: needs m.roi.onnx beside it'):
        Detector(first)
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / 'm.roi.onnx'))
    with pytest.raises(UserError, match='m.roi.onnx: is a part of m.onnx'):
        Detector(tmp_path / 'm.roi.onnx')


def test_demo_names_the_package_it_misses(tmp_path):
    done = demo(tmp_path, 'a.onnx', 'b', start="sys.modules['cv2'] = None\n")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        'error: cv2: is not installed, and the demo needs it; pip install '
        'opencv-python-headless')


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
    instances = results.to_instances(found.above(0.5), CLASSES)
    assert [(x['label'], x['class'], x['bbox']) for x in instances] == [
        (3, 'star', [30, 20, 40, 30])]
    assert instances[0]['score'] == pytest.approx(0.9)
    assert instances[0]['mask']['size'] == [40, 60]
