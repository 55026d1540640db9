"""The matrix: Pythons that are found, a run of one, the table."""
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# In place of the set-up: an environment that borrows this one's packages.
SETUP = '''
import argparse, pathlib, subprocess, sys
parser = argparse.ArgumentParser()
parser.add_argument('--venv')
parser.add_argument('--torch')
args = parser.parse_args()
subprocess.run([sys.executable, '-m', 'venv', '--without-pip', args.venv],
               check=True)
if args.torch == '1.0':
    sys.exit('setup: TORCH=1.0 is too old')
site, = pathlib.Path(args.venv).glob('lib/*/site-packages')
(site / 'borrowed.pth').write_text({borrowed!r})
'''

TESTS = '''
import pytest
def test_good(): pass
def test_good_too(): pass
def test_bad(): assert False
@pytest.mark.skip
def test_ugly(): pass
'''


@pytest.fixture
def checkout(tmp_path):
    """A folder with the tool, a stand-in for the set-up, and few tests."""
    misc = tmp_path / 'tools/misc'
    misc.mkdir(parents=True)
    shutil.copy(ROOT / 'tools/misc/matrix.py', misc)
    shutil.copy(ROOT / 'tools/misc/setup_env.py', misc / 'real.py')
    borrowed = '\n'.join(p for p in sys.path if p.endswith('site-packages'))
    (misc / 'setup_env.py').write_text(
        'from real import OLDEST, release\nif __name__ == "__main__":\n'
        + '\n'.join('    ' + line for line in SETUP.format(
            borrowed=borrowed).splitlines()))
    for name in ('tests', 'good'):
        (tmp_path / name).mkdir()
    (tmp_path / 'tests/test_four.py').write_text(TESTS)
    (tmp_path / 'good/test_one.py').write_text('def test_good(): pass')
    return tmp_path


@pytest.fixture
def matrix(checkout, monkeypatch):
    """The tool as a module of that folder."""
    monkeypatch.syspath_prepend(str(checkout / 'tools/misc'))
    monkeypatch.delitem(sys.modules, 'setup_env', raising=False)
    spec = importlib.util.spec_from_file_location(
        'matrix', checkout / 'tools/misc/matrix.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in ('setup_env', 'real'):
        sys.modules.pop(name, None)


def run(matrix, monkeypatch, *args):
    """What the tool's process would end with."""
    monkeypatch.setattr(sys, 'argv', ['matrix.py', *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        matrix.main()
    return stopped.value.code


@pytest.fixture
def this(matrix, monkeypatch):
    """The running Python's minor version, the only one that is found."""
    name = '{}.{}'.format(*sys.version_info)
    monkeypatch.setattr(matrix, 'find_pythons', lambda: {name: sys.executable})
    return name


@pytest.mark.slow
def test_rows_are_kept_and_counted(matrix, monkeypatch, this, tmp_path,
                                   capsys):
    out = tmp_path / 'out'
    assert run(matrix, monkeypatch, out) is True  # exit status 1: one fails
    label = f'{matrix.name_system()[1]}-python{this}-torch-default'
    row = json.loads((out / f'{label}.json').read_text())
    assert (row['passed'], row['failed'], row['skipped']) == (2, 1, 1)
    assert row['python'] == '{}.{}.{}'.format(*sys.version_info)
    assert 'pytest ended with 1' in row['outcome']
    folder = out / label
    assert 'test_bad' in (folder / 'log.txt').read_text()
    assert not (folder / 'venv').exists()  # 6 GB

    # Beside it another, of which the tests are chosen.
    assert run(matrix, monkeypatch, out, '--torches', '9.9', '--tests',
               'good') is False
    # And one that cannot be set up.
    assert run(matrix, monkeypatch, out, '--torches', '1.0') is True
    assert not list(out.glob('*/venv'))
    text = (out / 'table.md').read_text()
    assert text in capsys.readouterr().out
    header, _, *rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in text.splitlines()]
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    # By Python and torch, of which both rows have the same.
    assert {(r['tests'], r['passed'], r['failed'], r['skipped'])
            for r in rows if r['passed']} == {
                ('all', '2', '1', '1'), ('good', '1', '0', '0')}
    broken, = [r for r in rows if not r['passed']]
    assert (broken['Python'], broken['torch']) == (this, '1.0')
    assert broken['failed'].startswith('set-up ended with 1, see ')


def test_unknown_python_is_told(matrix, monkeypatch, this, tmp_path):
    assert run(matrix, monkeypatch, tmp_path / 'out', '--pythons', '2.7') == (
        f'matrix: there is no Python 2.7; choose from {this}')
    assert not (tmp_path / 'out').exists()


def test_pythons_are_found_by_running_them(matrix, monkeypatch, tmp_path):
    """On PATH and of pyenv; the newest of each minor version."""
    def pretend(folder, name, version):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho {version}\n' if version else
                        '#!/bin/sh\nexit 127\n')
        path.chmod(0o755)
        return str(path)

    pretend('bin', 'python3', '3 11 2')
    pretend('bin', 'python3.12', None)  # a shim without a version
    pretend('bin', 'python3-config', '3 11 2')
    pretend('pyenv/versions/3.9.18/bin', 'python3.9', '3 9 18')
    newest = pretend('pyenv/versions/3.11.7/bin', 'python3.11', '3 11 7')
    other = pretend('pyenv/versions/3.13.0/bin', 'python3', '3 13 0')
    monkeypatch.setenv('PATH', f'{tmp_path}/bin')
    monkeypatch.setenv('PYENV_ROOT', f'{tmp_path}/pyenv')
    assert matrix.find_pythons() == {'3.11': newest, '3.13': other}
