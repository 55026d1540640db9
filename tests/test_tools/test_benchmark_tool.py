"""tools/analysis_tools/benchmark.py on the command line."""
import csv
import json

import pytest
from tool_runs import ROOT

from vovnet.analysis import compute_config_complexity
from vovnet.engine.config import load_config

TOOL = 'tools/analysis_tools/benchmark.py'
QUICK = ('--repeats', '2', '--seconds', '0.02', '--max-warm-up', '0.1',
         '--meter', 'none', '--device', 'cpu')


@pytest.fixture
def config(write_config, tmp_path):
    return write_config(tmp_path / 'tiny.py')


def test_two_configs(run_tool, config, tmp_path):
    run = run_tool(
        tmp_path, TOOL, 'tiny.py', 'mmpretrain::resnet/resnet18_8xb32_in1k.py',
        '--part', 'backbone', '--shape', '64', '32', '--names', 'tiny', 'R18',
        '--accuracies', '1.5', '2', '--threads', '1', '--plot', 'plots',
        '--out', 'out/a.json', 'out/a.csv', 'out/a.md', *QUICK)
    assert run.returncode == 0, run.stderr
    found = compute_config_complexity(
        load_config(str(config)), [64, 32], 'backbone').total
    table = [[cell.strip() for cell in line.strip('│ ').split('│')]
             for line in run.stdout.splitlines() if line.startswith('│')]
    assert [row[0] for row in table] == ['tiny', 'R18']
    assert [row[1] for row in table] == ['64x32', '64x32']
    assert table[0][2] == f'{found.params / 1e6:.2f}'
    assert table[0][4] == f'{found.memory_access_cost / 1e6:.1f}'
    said = ' '.join(run.stdout.split())
    for text in ('n/a', 'noise of 64x32 px', 'threads: 1', 'torch: 2',
                 'FLOPs are twice as many', 'as the VoVNet paper counts'):
        assert text in said
    out = tmp_path / 'out'
    first, second = json.loads((out / 'a.json').read_text())['results']
    assert first['macs'] == found.macs and second['name'] == 'R18'
    assert len(first['latency']['repeats']) == 2
    with open(out / 'a.csv') as file:
        assert [row['network'] for row in csv.DictReader(file)] == [
            'tiny', 'R18']
    assert '- threads: 1' in (out / 'a.md').read_text()
    assert sorted(f.name for f in (tmp_path / 'plots').iterdir()) == [
        'accuracy_fps.png', 'efficiency_fps.png']
    assert 'Written: plots/accuracy_fps.png' in run.stdout


def test_trained_detector_on_its_test_set(run_tool, trained, tmp_path):
    config, work_dir, _ = trained
    run = run_tool(tmp_path, TOOL, config, '--checkpoints',
                   work_dir / 'epoch_1.pth', '--data', '--out', 'a.json',
                   *QUICK)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / 'a.json').read_text())
    [one] = found['results']
    assert one['checkpoint'] == str(work_dir / 'epoch_1.pth')
    # The validation images of the session's data set are 4 of 64x64 px.
    assert one['shapes'] == [dict(shape=[1, 3, 64, 64], batches=4)]
    assert 'test set' in found['conditions']['input']
    assert 'random' not in run.stdout


@pytest.mark.parametrize(('args', 'said'), [
    (['--threads', '0'], '--threads 0'),
    (['--names', 'a', 'b'], '--names: 2 for 1 configs'),
    (['--checkpoints', 'no.pth'], 'no.pth'),
    (['--out', 'a.txt'], '--out a.txt'),
    (['--plot', 'tiny.py/plots'], '--plot'),
    (['--cfg-options', 'model.backbone.type=NoSuch'], 'NoSuch'),
    (['--meter', 'rapl', '--cfg-options', 'model.backbone=None'],
     'no model.backbone'),
])
def test_mistakes_end_with_one_line(run_tool, config, tmp_path, args, said):
    run = run_tool(tmp_path, TOOL, 'tiny.py', *QUICK, *args)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith('error: ') and said in last
    assert 'Traceback' not in run.stderr


def test_a_result_is_not_overwritten(run_tool, config, tmp_path):
    (tmp_path / 'a.md').write_text('mine')
    run = run_tool(tmp_path, TOOL, 'tiny.py', *QUICK, '--out', 'a.md')
    assert run.returncode == 1 and '--overwrite' in run.stderr
    assert (tmp_path / 'a.md').read_text() == 'mine'


def test_make_compare_names_what_is_there():
    """The configs of `make compare` can be read."""
    text = (ROOT / 'Makefile').read_text()
    _, _, rule = text.partition('\ncompare: ')
    rule = rule.partition('\n\n')[0]
    configs = [word for word in rule.replace('\\\n', ' ').split()
               if word.endswith('.py') and 'tools/' not in word]
    assert len(configs) == 6
    parameters = [compute_config_complexity(
        load_config(config), [320], 'backbone').total.params / 1e6
        for config in configs]
    # Published: torchvision's ResNet-50, -101, DenseNet-201, -161 less their
    # classifiers (2048, 2048, 1920 and 2208 by 1000, and 1000 biases).
    known = [25.557 - 2.049, 44.549 - 2.049, 20.014 - 1.921, 28.681 - 2.209]
    assert parameters[2:] == pytest.approx(known, abs=0.002)
