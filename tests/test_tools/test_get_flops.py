"""tools/analysis_tools/get_flops.py on the command line."""
import json

import pytest
from tool_runs import ROOT

from vovnet.analysis import compute_config_complexity
from vovnet.engine.config import load_config

TOOL = 'tools/analysis_tools/get_flops.py'


@pytest.fixture
def config(write_config, tmp_path):
    return write_config(tmp_path / 'tiny.py')


def test_table_and_json(run_tool, config, tmp_path):
    run = run_tool(tmp_path, TOOL, 'tiny.py', '--shape', '96', '64',
                   '--json', 'out/cost.json')
    assert run.returncode == 0, run.stderr
    found = compute_config_complexity(load_config(str(config)), [96, 64])
    rows = {cells[0]: cells[1:] for cells in table(run.stdout)}
    assert list(rows) == ['backbone', 'neck', 'bbox_head', 'total']
    for name, cost in dict(found.parts, total=found.total).items():
        assert rows[name] == [
            f'{cost.params / 1e6:.3f}', f'{cost.macs / 1e9:.3f}',
            f'{cost.memory_access_cost / 1e6:.3f}',
            f'{cost.elements / 1e6:.3f}', f'{cost.cat_bytes / 1e6:.3f}']
    said = ' '.join(run.stdout.split())
    assert '1x3x96x64' in said and 'FLOPs are twice as many' in said
    file = json.loads((tmp_path / 'out/cost.json').read_text())
    assert file['config'] == 'tiny.py' and file['part'] == 'detector'
    assert file['input'] == [1, 3, 96, 64]
    assert file['total'] == dict(
        found.total._asdict(), flops=2 * found.total.macs)
    assert sum(layer['cost']['macs'] for layer in file['layers']) == \
        found.total.macs
    assert 'FLOPs are twice as many' in file['convention']


def table(text):
    """Cells of the table's rows."""
    return [[cell.strip() for cell in line.strip('│ ').split('│')]
            for line in text.splitlines() if line.startswith('│')]


def test_layers_of_the_backbone(run_tool, config, tmp_path):
    run = run_tool(tmp_path, TOOL, config, '--part', 'backbone',
                   '--per-layer')
    assert run.returncode == 0, run.stderr
    first, *_, last = table(run.stdout)
    # The test pipeline resizes to 64x64.
    assert first[:4] == ['stem.0.conv', 'conv 3x3 s2', '1x3x64x64',
                         '1x8x32x32']
    assert last[0] == 'total'
    assert ['stage2.block1', 'cat of 3', '1x8x16x16', '1x24x16x16'] in [
        row[:4] for row in table(run.stdout)]


def test_config_of_mmdet(run_tool, tmp_path):
    run = run_tool(tmp_path, TOOL, 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x'
                   '_coco.py', '--shape', '64', '--cfg-options',
                   'model.test_cfg.rpn.max_per_img=7')
    assert run.returncode == 0, run.stderr
    said = ' '.join(run.stdout.split())
    assert 'roi_head: 7 proposals' in said
    assert 'Not counted: torchvision.roi_align (1x)' in said


@pytest.mark.parametrize('args, parts', [
    (['no.py'], ['no.py', 'no such file']),
    (['mmdet::no/no.py'], ['mmdet::no/no.py', 'check the path']),
    ([ROOT / 'configs/_base_/default_runtime.py'], ['no model.backbone']),
    (['tiny.py', '--shape', '0'], ['--shape 0', 'height and width']),
    (['tiny.py', '--cfg-options', 'model.neck.type=FNP'], ['FNP']),
    (['tiny.py', '--cfg-options', 'model.neck.in_channels=[16,8]'],
     ['cannot run on zeros of shape 1x3x64x64', '--part backbone']),
    (['tiny.py', '--json', 'tiny.py/cost.json'], ['tiny.py', '--json'])])
def test_mistakes_end_with_one_line(args, parts, run_tool, config, tmp_path):
    run = run_tool(tmp_path, TOOL, *args)
    assert run.returncode == 1, run.stdout + run.stderr
    assert 'Traceback' not in run.stdout + run.stderr
    line, = (text for text in run.stderr.splitlines()
             if text.startswith('error: '))
    assert all(part in line for part in parts), line
