"""init_cfg, where --resume or load_from brings the same weights anyway."""
import re

import pytest
import torch

from vovnet.checkpoints import load_file

GONE = '''
model['backbone']['init_cfg'] = dict(
    type='Pretrained', checkpoint='gone/{}.pth')
{}
'''


@pytest.fixture
def config(trained, write_config, tmp_path):
    """The trained detector's config, whose first weights are gone by now."""

    def write(extra=''):
        return write_config(tmp_path / 'c.py', GONE.format('a', extra))

    return write


def error_of(run):
    assert run.returncode == 1, run.stdout
    assert 'Epoch(train)' not in run.stdout
    line, = (x for x in run.stderr.splitlines() if 'error: ' in x)
    return line


def test_resume(config, trained, run_tool, tmp_path):
    config("train_cfg['max_epochs'] = 2")
    run = run_tool(tmp_path, 'tools/train.py', 'c.py', '--resume',
                   trained[1] / 'epoch_1.pth')
    assert run.returncode == 0, run.stderr
    assert 'Epoch(train) [2]' in run.stdout and 'train) [1]' not in run.stdout


def test_load_from(config, trained, run_tool, tmp_path):
    config()
    run = run_tool(tmp_path, 'tools/train.py', 'c.py', '--cfg-options',
                   f'load_from={trained[1] / "epoch_1.pth"}')
    assert run.returncode == 0, run.stderr
    assert 'tensors loaded, 0 missing' in run.stdout


def test_weights_of_a_backbone_where_a_checkpoint_is_wanted(
        trained, write_config, run_tool, tmp_path):
    """They have another library's prefix."""
    state = load_file(trained[1] / 'epoch_1.pth')['state_dict']
    torch.save({key.replace('backbone.', 'old.'): value for key, value
                in state.items() if key.startswith('backbone.')},
               tmp_path / 'part.pth')
    write_config(tmp_path / 'c.py', "load_from = 'part.pth'")
    line = error_of(run_tool(tmp_path, 'tools/train.py', 'c.py'))
    assert "part.pth: is of another model (0 tensors loaded" in line
    assert "holds behind 'old.', give it to the backbone as init_cfg" in line
    line = error_of(run_tool(tmp_path, 'tools/test.py', 'c.py', 'part.pth'))
    assert 'use the config that it was trained with' in line
    # A detector's checkpoint, but under another name.
    torch.save(dict(model=dict(state)), tmp_path / 'part.pth')
    line = error_of(run_tool(tmp_path, 'tools/train.py', 'c.py'))
    assert line.endswith('save them as dict(state_dict=...)')


def test_another_network_is_told_with_the_file(trained, run_tool, tmp_path):
    config, work_dir, _ = trained
    run = run_tool(tmp_path, 'tools/test.py', config,
                   work_dir / 'epoch_1.pth', '--cfg-options',
                   'model.backbone.pool=padded')
    line = error_of(run)
    assert f'checkpoint {work_dir / "epoch_1.pth"}: is of another' in line
    assert "set pool='ceil' in the backbone" in line


def reshape(state):
    key = 'backbone.stage3.block1.aggregation.bn.bias'
    return state | {key: torch.ones(2)}


@pytest.mark.parametrize('change, extra, gone', [
    (reshape, '', 'a'),  # tensors of another shape replace nothing
    # What is left out has to come from where the config says.
    (lambda state: select(state, r'(?!backbone\.)'), '', 'a'),
    (lambda state: select(state, r'(?!backbone\.stage3\.)'), '', 'a'),
    # Parts are judged one by one: the neck's weights alone are missed.
    (lambda state: select(state, r'backbone\.'), GONE.replace(
        'backbone', 'neck').format('b', ''), 'b')],
    ids=['reshaped', 'no backbone', 'a part of it', 'no neck'])
def test_load_from_without_all_weights(change, extra, gone, config, trained,
                                       run_tool, tmp_path):
    state = load_file(trained[1] / 'epoch_1.pth')['state_dict']
    torch.save(change(dict(state)), tmp_path / 'part.pth')
    config(f"load_from = 'part.pth'\n{extra}")
    line = error_of(run_tool(tmp_path, 'tools/train.py', 'c.py'))
    assert f'gone/{gone}.pth: no such file' in line


def select(state, pattern):
    return {key: value for key, value in state.items()
            if re.match(pattern, key)}
