"""``tools/deployment/export_onnx.py`` and ``demo/onnx_demo.py``."""
import json
import re

import pytest

TOOL = 'tools/deployment/export_onnx.py'


@pytest.fixture(scope='module')
def exported(tmp_path_factory, trained, run_tool):
    """A file of the trained detector, and what the tool printed."""
    config, work_dir, _ = trained
    folder = tmp_path_factory.mktemp('exported')
    done = run_tool(folder, TOOL, config, work_dir / 'epoch_1.pth', '--out',
                    'out/tiny.onnx', '--num-images', '2', '--eval')
    assert done.returncode == 0, done.stderr
    return folder / 'out/tiny.onnx', done.stdout


def test_export(exported):
    file, printed = exported
    assert file.stat().st_size > 10_000
    assert [f.name for f in file.parent.iterdir()] == ['tiny.onnx']
    assert 'on 2 pictures of the test data' in printed
    for backend in 'onnxruntime', 'openvino':
        found = re.search(rf'{backend}: 2 pictures, (\d+) detections, boxes '
                          r'differ by (\S+) px, scores by (\S+); ', printed)
        assert int(found[1]) > 5
        assert float(found[2]) < 0.01 and float(found[3]) < 1e-5
    scores = dict(re.findall(r'^  (\w+): coco/bbox_mAP ([\d.]+)', printed,
                             re.MULTILINE))
    assert set(scores) == {'model', 'onnxruntime', 'openvino'}
    assert max(scores.values()) == min(scores.values())
    assert 'torch 2' in printed and 'openvino 2' in printed
    assert 'demo/onnx_demo.py out/tiny.onnx IMAGES' in printed


def test_demo(exported, shapes, tmp_path, run_tool):
    file, _ = exported
    done = run_tool(tmp_path, 'demo/onnx_demo.py', file, shapes / 'val',
                    '--score-thr', '0', '--backend', 'openvino')
    assert done.returncode == 0, done.stderr
    records = [json.loads(f.read_text())
               for f in (tmp_path / 'outputs/preds').iterdir()]
    assert len(records) == 4
    assert sum(len(record['instances']) for record in records) > 0
    assert 'Results of 4 images are in outputs (openvino, ' in done.stdout


def test_maps_of_a_fixed_shape(trained, tmp_path, run_tool):
    config, work_dir, _ = trained
    done = run_tool(tmp_path, TOOL, config, work_dir / 'epoch_1.pth',
                    '--maps', '--normalize', '--shape', '64', '96',
                    '--opset', '13', '--num-images', '1')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'tiny.onnx').exists()
    assert 'onnx_demo' not in done.stdout


def test_nothing_is_written_unchecked(trained, tmp_path, run_tool):
    config, work_dir, _ = trained
    done = run_tool(tmp_path, TOOL, config, work_dir / 'epoch_1.pth',
                    '--cfg-options', 'model.test_cfg.score_thr=1.0')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        'error: the model finds nothing on 4 pictures')
    assert not list(tmp_path.glob('*.onnx'))


@pytest.mark.parametrize('options, message', [
    (('--opset', 5), 'error: --opset 5: the torchscript exporter has 11 to'),
    (('--images', 'nowhere'), 'error: nowhere: no images there'),
])
def test_mistakes(options, message, trained, tmp_path, run_tool):
    config, work_dir, _ = trained
    done = run_tool(tmp_path, TOOL, config, work_dir / 'epoch_1.pth',
                    *options)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)
    assert 'Traceback' not in done.stderr
    assert not list(tmp_path.glob('*.onnx'))


@pytest.mark.parametrize('options', [('--maps', '--eval'),
                                     ('--num-images', 0)])
def test_usage(options, tmp_path, run_tool):
    done = run_tool(tmp_path, TOOL, 'a.py', 'a.pth', *options)
    assert done.returncode == 2 and options[0] in done.stderr
