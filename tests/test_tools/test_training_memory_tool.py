"""tools/analysis_tools/training_memory.py on the command line."""
import json

import pytest
from test_errors import error_line

TOOL = 'tools/analysis_tools/training_memory.py'
ARCH = 'V2-19-slim-dw'
QUICK = (ARCH, '--shape', '96', '64', '--rounds', '1', '--device', 'cpu')


def test_table_and_files(run_tool, tmp_path):
    run = run_tool(tmp_path, TOOL, *QUICK, '--threads', '1', '--dtype',
                   'bf16', '--channels-last', '--batch-size', '3', '--out',
                   'out/a.json', 'out/a.csv', 'out/a.md')
    assert run.returncode == 0, run.stderr
    out = tmp_path / 'out'
    page = (out / 'a.md').read_text()
    assert page in run.stdout and 'Written: out/a.md' in run.stdout
    found = json.loads((out / 'a.json').read_text())
    told = found['conditions']
    assert told['dtype'] == 'bf16 (autocast)' and told['batch'] == 3
    assert told['memory format'] == 'channels last' and told['threads'] == 1
    assert '96x64' in told['input']
    assert [r['name'] for r in found['results']] == [
        'timm ese_vovnet19b_slim_dw',
        'timm ese_vovnet19b_slim_dw, grad_checkpointing',
        f'VoVNet {ARCH}, with_cp=False',
        f"VoVNet {ARCH}, with_cp='pointwise'",
        f"VoVNet {ARCH}, with_cp='block'"]
    assert len((out / 'a.csv').read_text().splitlines()) == 6


@pytest.mark.parametrize(('args', 'said'), [
    (['V2-40'], 'arch V2-40: timm has none like it'),
    (['--threads', '0'], '--threads 0: give at least 1'),
    (['--shape', '0'], '--shape 0'),
    (['--device', 'cuda:9'], '--device cuda:9'),
    (['--out', 'a.txt'],
     '--out a.txt: unknown format; end the name in .json, .csv, .md'),
    (['--out', 'there.md'], '--out there.md: exists already'),
])
def test_mistakes_end_with_one_line(args, said, run_tool, tmp_path):
    (tmp_path / 'there.md').touch()
    line = error_line(run_tool(tmp_path, TOOL, *args))
    assert line.startswith(f'error: {said}')
