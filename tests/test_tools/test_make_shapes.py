"""The command line, run from elsewhere and without installation."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOL = (Path(__file__).resolve().parents[2]
        / 'tools/dataset_converters/make_shapes.py')
ENV = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}


def run(*args, cwd):
    return subprocess.run([sys.executable, TOOL, *args], cwd=cwd, env=ENV,
                          capture_output=True, text=True)


def test_makes_a_set_then_says_that_it_is_there(tmp_path):
    command = ('set', '--num-train', '4', '--num-val', '2', '--size', '48',
               '--seed', '3', '--classes', 'star', 'cross', '--max-objects',
               '2', '--empty-share', '0.2')
    first = run(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert '6/6' in first.stdout
    assert '4 training and 2 validation images written' in first.stdout
    recorded = json.loads((tmp_path / 'set/shapes.json').read_text())
    wanted = dict(num_train=4, num_val=2, size=48, seed=3, max_objects=2,
                  classes=['star', 'cross'], empty_share=0.2, layout='coco')
    assert wanted.items() <= recorded.items()
    second = run(*command, cwd=tmp_path)
    assert second.returncode == 0 and 'already there' in second.stdout
    third = run(*command, '--layout', 'voc', '--force', cwd=tmp_path)
    assert third.returncode == 0, third.stderr
    listed = (tmp_path / 'set/ImageSets/Main/train.txt').read_text().split()
    assert len(listed) == 4
    assert not (tmp_path / 'set/annotations').exists()


@pytest.mark.parametrize('args, said', [
    (('--classes', 'hexagon'), 'circle, square, triangle'),
    (('--size', '8'), 'at least 32'),
    ((), 'choose another folder'),
])
def test_mistakes_get_one_line(tmp_path, args, said):
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set/thesis.txt').write_text('years of work')
    result = run('set', *args, cwd=tmp_path)
    assert result.returncode != 0
    assert result.stdout == ''
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.rglob('*')] == ['set', 'thesis.txt']


def test_help_has_examples(tmp_path):
    result = run('--help', cwd=tmp_path)
    assert result.returncode == 0
    assert 'examples:' in result.stdout and '--layout voc' in result.stdout


def test_stopped_by_the_system_it_leaves_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, TOOL, 'set', '--num-train', '20000'],
        cwd=tmp_path, env=ENV, stdout=subprocess.DEVNULL,
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
