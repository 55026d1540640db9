"""tools/train.py and the normalization that pretrained weights want."""
import sys

import pytest
import torch
from tool_runs import ROOT

sys.path.insert(0, str(ROOT / 'tests/test_checkpoints'))
import foreign
from foreign import NETS

from vovnet.checkpoints import Normalization, read_weights

BACKBONE = '''
model.update(
    backbone=dict(
        type='VoVNet', arch='V2-19-slim-dw', out_indices=(1, 2),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint={path!r})),
    neck=dict(type='FPN', in_channels=[256, 384], out_channels=16,
              num_outs=2))
'''


@pytest.fixture
def config(write_config, tmp_path):
    torch.manual_seed(0)
    torch.save(foreign.random_weights(NETS['19-slim-dw'], foreign.TIMM),
               tmp_path / 'timm.pth')
    write_config(tmp_path / 'c.py',
                 BACKBONE.format(path=str(tmp_path / 'timm.pth')))
    return tmp_path / 'c.py'


def test_refused_before_the_first_step(config, run_tool, tmp_path):
    run = run_tool(tmp_path, 'tools/train.py', 'c.py')
    assert run.returncode == 1, run.stdout + run.stderr
    line, = (x for x in run.stderr.splitlines() if 'error: ' in x)
    assert line.startswith('error: VoVNet: ') and 'timm.pth: expects' in line
    assert 'the model has data_preprocessor=dict(mean=[128.0, 128' in line
    assert 'Traceback' not in run.stdout + run.stderr
    assert 'Epoch(train)' not in run.stdout
    assert not list(tmp_path.rglob('epoch_*.pth'))


def test_trains_on_request(config, run_tool, tmp_path):
    run = run_tool(
        tmp_path, 'tools/train.py', 'c.py', '--cfg-options',
        'check_images=False')
    assert run.returncode == 0, run.stderr
    path, = tmp_path.rglob('epoch_1.pth')
    # It was trained on what the model gives, whatever timm's weights wanted.
    given = Normalization((128., ) * 3, (64., ) * 3, bgr=True)
    assert read_weights(str(path)).variant.normalization == given
    # Which holds from now on.
    change = 'model.data_preprocessor.std=[1.0,1.0,1.0]'
    for tool, args in (('train', ['--cfg-options', f'load_from={path}']),
                       ('test', [path, '--cfg-options'])):
        run = run_tool(tmp_path, f'tools/{tool}.py', 'c.py', *args, change)
        assert run.returncode == 1, run.stdout
        line, = (x for x in run.stderr.splitlines() if 'error: ' in x)
        assert f'checkpoint {path}: expects {given}, the model has' in line
        assert 'init_cfg' not in line
