"""The command line of the generator of pictures."""
import json

import pytest

TOOL = 'tools/dataset_converters/make_shape_folders.py'


def test_makes_a_set_then_says_that_it_is_there(run_tool, tmp_path):
    args = ('set', '--num-train', '2', '--num-val', '1', '--size', '32',
            '--seed', '4', '--classes', 'ten')
    first = run_tool(tmp_path, TOOL, *args)
    assert first.returncode == 0, first.stderr
    assert '30/30' in first.stdout
    assert ('set: 10 classes with 2 training and 1 validation pictures each '
            'written') in first.stdout
    recorded = json.loads((tmp_path / 'set/shapes.json').read_text())
    assert recorded['seed'] == 4 and len(recorded['classes']) == 10
    assert len(list(tmp_path.glob('set/train/*/*.jpg'))) == 20
    again = run_tool(tmp_path, TOOL, *args)
    assert again.returncode == 0 and 'already there' in again.stdout
    other = run_tool(tmp_path, TOOL, 'set', '--num-train', '1', '--num-val',
                     '1', '--classes', 'star', 'circle+star', '--force')
    assert other.returncode == 0, other.stderr
    assert len(list(tmp_path.glob('set/*/*/*.jpg'))) == 4


@pytest.mark.parametrize('args, said', [
    (('--classes', 'hexagon'), 'circle, square, triangle'),
    (('--size', '31'), 'at least 32'),
    ((), 'choose another folder'),
])
def test_mistakes_get_one_line(args, said, run_tool, tmp_path):
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set/thesis.txt').write_text('years of work')
    run = run_tool(tmp_path, TOOL, 'set', *args)
    assert run.returncode == 1 and said in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert [p.name for p in (tmp_path / 'set').iterdir()] == ['thesis.txt']
