"""The command lines of the generators of data sets."""
import json
import os
import subprocess
import sys
import time

import pytest
from tool_runs import ROOT

SHAPES = 'tools/dataset_converters/make_shapes.py'
FOLDERS = 'tools/dataset_converters/make_shape_folders.py'


def test_a_detection_set_is_made_once(run_tool, tmp_path):
    command = ('set', '--num-train', '4', '--num-val', '2', '--size', '48',
               '--seed', '3', '--classes', 'star', 'cross', '--max-objects',
               '2', '--empty-share', '0.2')
    first = run_tool(tmp_path, SHAPES, *command)
    assert first.returncode == 0, first.stderr
    assert '6/6' in first.stdout
    assert '4 training and 2 validation images written' in first.stdout
    recorded = json.loads((tmp_path / 'set/shapes.json').read_text())
    wanted = dict(num_train=4, num_val=2, size=48, seed=3, max_objects=2,
                  classes=['star', 'cross'], empty_share=0.2, layout='coco')
    assert wanted.items() <= recorded.items()
    second = run_tool(tmp_path, SHAPES, *command)
    assert second.returncode == 0 and 'already there' in second.stdout
    third = run_tool(tmp_path, SHAPES, *command, '--layout', 'voc', '--force')
    assert third.returncode == 0, third.stderr
    listed = (tmp_path / 'set/ImageSets/Main/train.txt').read_text().split()
    assert len(listed) == 4
    assert not (tmp_path / 'set/annotations').exists()


def test_a_classification_set_is_made_once(run_tool, tmp_path):
    args = ('set', '--num-train', '2', '--num-val', '1', '--size', '32',
            '--seed', '4', '--classes', 'ten')
    first = run_tool(tmp_path, FOLDERS, *args)
    assert first.returncode == 0, first.stderr
    assert '30/30' in first.stdout
    assert ('set: 10 classes with 2 training and 1 validation pictures each '
            'written') in first.stdout
    recorded = json.loads((tmp_path / 'set/shapes.json').read_text())
    assert recorded['seed'] == 4 and len(recorded['classes']) == 10
    assert len(list(tmp_path.glob('set/train/*/*.jpg'))) == 20
    again = run_tool(tmp_path, FOLDERS, *args)
    assert again.returncode == 0 and 'already there' in again.stdout
    other = run_tool(tmp_path, FOLDERS, 'set', '--num-train', '1',
                     '--num-val', '1', '--classes', 'star', 'circle+star',
                     '--force')
    assert other.returncode == 0, other.stderr
    assert len(list(tmp_path.glob('set/*/*/*.jpg'))) == 4


@pytest.mark.parametrize('tool', [SHAPES, FOLDERS])
@pytest.mark.parametrize('args, said', [
    (('--classes', 'hexagon'), 'circle, square, triangle'),
    (('--size', '31'), 'at least 32'),
    ((), 'choose another folder'),
])
def test_mistakes_get_one_line(run_tool, tmp_path, tool, args, said):
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set/thesis.txt').write_text('years of work')
    run = run_tool(tmp_path, tool, 'set', *args)
    assert run.returncode == 1
    assert run.stdout == ''
    assert said in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert {p.name for p in tmp_path.rglob('*')} == {
        'set', 'thesis.txt', '.stdout0', '.stderr0'}


def test_help_has_examples(run_tool, tmp_path):
    run = run_tool(tmp_path, SHAPES, '--help')
    assert run.returncode == 0
    assert 'examples:' in run.stdout and '--layout voc' in run.stdout


def test_stopped_by_the_system_it_leaves_nothing(tmp_path):
    """Run from elsewhere, and without installation."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    process = subprocess.Popen(
        [sys.executable, ROOT / SHAPES, 'set', '--num-train', '20000'],
        cwd=tmp_path, env=env, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob('*.jpg')):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert 'nothing was written' in said and 'Traceback' not in said
    assert not list(tmp_path.iterdir())
