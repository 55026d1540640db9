"""--optimize of the tools: benchmark, test, image demo."""
import json
import re

import pytest
import torch

from vovnet.deploy.optimize.modes import find_obstacle

QUICK = ('--repeats', '2', '--seconds', '0.02', '--max-warm-up', '0.1',
         '--meter', 'none', '--device', 'cpu', '--threads', '1')
BENCHMARK = 'tools/analysis_tools/benchmark.py'
BF16 = find_obstacle('bf16', torch.device('cpu')) is None


@pytest.fixture
def config(write_config, tmp_path):
    return write_config(tmp_path / 'tiny.py')


def last_line(run):
    assert run.returncode == 1, run.stderr
    line = run.stderr.strip().splitlines()[-1]
    assert line.startswith('error: ') and 'Traceback' not in run.stderr
    return line


def test_modes_side_by_side(run_tool, config, tmp_path):
    pytest.importorskip('timm')
    modes = 'eager', 'fold', 'onnxruntime', 'openvino'
    run = run_tool(
        tmp_path, BENCHMARK, 'tiny.py', '--timm', 'ese_vovnet19b_slim_dw',
        '--part', 'backbone', '--shape', '64', '--names', 'tiny',
        '--optimize', *modes, '--out', 'a.json', 'a.md', *QUICK)
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / 'a.json').read_text())['results']
    names = 'timm ese_vovnet19b_slim_dw', 'tiny'
    assert [r['name'] for r in results] == [
        f'{name}, {mode}' for name in names for mode in modes]
    assert [r['mode'] for r in results] == [*modes] * 2
    medians = [r['latency']['median'] for r in results]
    for r, seconds in zip(results, medians):
        assert r['of_first'] == pytest.approx(seconds / medians[0])
        assert (r['difference'] == 0) == (r['mode'] == 'eager')
        assert r['difference'] < 1e-3
        # What others hold is not in torch's count.
        assert (r['memory']['tensors'] is None) == (r['mode'] != 'eager')
    said = (tmp_path / 'a.md').read_text()
    for i, name in enumerate(names):
        fastest = min(range(4), key=lambda k: medians[4 * i + k])
        assert f'Fastest: {name}, {modes[fastest]}, ' in said
    assert 'onnxruntime: fp32, folded, ONNX Runtime.' in said
    assert "dtype: each mode's" in said


def test_a_detectors_runtimes_need_nms_out(run_tool, config, tmp_path):
    line = last_line(run_tool(tmp_path, BENCHMARK, 'tiny.py', '--optimize',
                              'openvino', *QUICK))
    assert '--nms out or --part backbone' in line
    run = run_tool(tmp_path, BENCHMARK, 'tiny.py', '--optimize', 'eager',
                   'openvino', 'fold', '--nms', 'out', *QUICK)
    assert run.returncode == 0, run.stderr
    assert 'tiny, openvino' in run.stdout


@pytest.mark.parametrize(('args', 'said'), [
    (['--optimize', 'fp16'], 'mode fp16: needs a GPU'),
    (['--optimize', 'graph'], 'mode graph: CUDA graphs need a GPU'),
    (['--optimize', 'fold', '--dtype', 'bf16'], '--dtype, --channels-last'),
    (['--timm', 'ese_vovnet39b'], '--timm: these networks have no head'),
    (['--part', 'backbone', '--timm', 'vovnet'],
     'no such network; similar ones'),
])
def test_mistakes_end_with_one_line(run_tool, config, tmp_path, args, said):
    assert said in last_line(
        run_tool(tmp_path, BENCHMARK, 'tiny.py', *args, *QUICK))


def test_an_optimized_model_is_tested(run_tool, trained, tmp_path):
    config, work_dir, _ = trained
    found = {}
    modes = ['--optimize', 'bf16'] if BF16 else ['--optimize', 'eager']
    for args in [], ['--optimize'], modes:
        run = run_tool(
            tmp_path, 'tools/test.py', config, work_dir / 'epoch_1.pth',
            '--work-dir', tmp_path / 'wd', '--out', 'a.pkl', *args)
        assert run.returncode == 0, run.stderr
        log = run.stdout + run.stderr
        assert ('optimize: fold, fp32' in log) == (args == ['--optimize'])
        found[args[-1] if args else 'plain'] = float(
            re.search(r'bbox_mAP: (\S+)', log)[1])
    assert found['--optimize'] == pytest.approx(found['plain'], abs=1e-3)
    assert found[modes[1]] == pytest.approx(found['plain'], abs=1e-2)


def test_the_demo_detects_with_an_optimized_model(run_tool, trained, shapes,
                                                  tmp_path):
    config, work_dir, _ = trained
    boxes = []
    for args in [], ['--optimize', 'fold']:
        out = tmp_path / f'out{len(boxes)}'
        run = run_tool(
            tmp_path, 'demo/image_demo.py', shapes / 'val', config,
            work_dir / 'epoch_1.pth', '--out-dir', out, '--device', 'cpu',
            '--score-thr', '0', '--batch-size', '2', *args)
        assert run.returncode == 0, run.stderr
        assert ('optimize: fold' in run.stdout) == bool(args)
        boxes.append([
            instance['bbox'] for file in sorted((out / 'preds').iterdir())
            for instance in json.loads(file.read_text())['instances']])
    assert len(boxes[0]) == len(boxes[1]) > 0
    for plain, fast in zip(*boxes):
        assert fast == pytest.approx(plain, abs=0.05)


@pytest.mark.parametrize(('args', 'said'), [
    (['--optimize', 'fp16'], 'mode fp16: needs a GPU'),
    (['--optimize', '--tta'], '--optimize, --tta: leave one out'),
])
def test_what_cannot_be_tested(run_tool, trained, tmp_path, args, said):
    config, work_dir, _ = trained
    assert said in last_line(run_tool(
        tmp_path, 'tools/test.py', config, work_dir / 'epoch_1.pth', *args))
