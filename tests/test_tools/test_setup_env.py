"""The set-up: what it refuses, and that it knows when it is done."""
import importlib.util
import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup_env(tmp_path, monkeypatch):
    """The script as a module, at work in a checkout without .venv."""
    for name in ('requirements', 'tools/misc'):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ('setup.cfg', 'setup.py', 'pyproject.toml'):
        shutil.copy(ROOT / name, tmp_path)
    spec = importlib.util.spec_from_file_location(
        'setup_env', tmp_path / 'tools/misc/setup_env.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert Path(module.ROOT) == tmp_path
    return module


def message(action):
    with pytest.raises(SystemExit) as stopped:
        action()
    text = str(stopped.value)
    assert text.startswith('setup: ') and '\n' not in text
    return text


@pytest.mark.parametrize('version', [(3, 6, 9), (3, 9, 0), (3, 13, 1)])
def test_wrong_python(setup_env, monkeypatch, version):
    monkeypatch.setattr(sys, 'version_info', version)
    text = message(setup_env.main)
    assert f'{version[0]}.{version[1]} ' in text and '3.10 to 3.12' in text
    assert 'make PYTHON=' in text
    assert not Path(setup_env.VENV).exists()


def test_old_pythons_can_read_it():
    """No syntax that would hide the message about the version."""
    source = (ROOT / 'tools/misc/setup_env.py').read_text()
    compile(source, 'setup_env.py', 'exec')
    import ast
    assert ast.parse(source, feature_version=(3, 4))


def test_no_room(setup_env, monkeypatch):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(setup_env.shutil, 'disk_usage',
                        lambda path: usage(9e9, 8e9, 1e9))
    text = message(setup_env.main)
    assert '1.0 GB' in text and setup_env.ROOT in text
    assert not Path(setup_env.VENV).exists()


def fake_distribution(folder, name):
    info = folder / f'{name.replace("-", "_")}-1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')


@pytest.mark.parametrize('extra, told', [
    ('mmcv', 'mmcv comes from two distributions in .venv, mmcv and mmcv-lite'),
    ('onedl-mmdetection', 'mmdet comes from two distributions'),
    ('onedl-mmengine', 'mmengine comes from two distributions')])
def test_two_providers(setup_env, monkeypatch, tmp_path, extra, told):
    """Beside those that this environment really has."""
    fake_distribution(tmp_path / 'site', extra)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site'))
    monkeypatch.setattr(setup_env, 'PYTHON', sys.executable)
    text = message(setup_env.providers)
    assert told in text and 'uninstall' in text


def test_one_provider_each(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env, 'PYTHON', sys.executable)
    found = setup_env.providers()
    assert set(found) == {'mmengine', 'mmcv', 'mmdet', 'mmpretrain'}
    assert all(len(names) == 1 for names in found.values())


def test_foreign_folder_is_kept(setup_env):
    thesis = Path(setup_env.VENV, 'thesis.txt')
    thesis.parent.mkdir()
    thesis.write_text('years of work')
    assert 'move it away' in message(setup_env.make_venv)
    assert thesis.read_text() == 'years of work'


def test_done_is_known(setup_env, capsys, monkeypatch):
    Path(setup_env.VENV).mkdir()
    Path(setup_env.STAMP).write_text(json.dumps(setup_env.fingerprint()))
    monkeypatch.setattr(setup_env, 'PYTHON', sys.executable)
    setup_env.main()
    assert capsys.readouterr().out == 'setup: .venv is up to date\n'
    # Other requirements make another environment.
    with open(Path(setup_env.ROOT, 'requirements/runtime.txt'), 'a') as file:
        file.write('one-more-package\n')
    assert not setup_env.is_done(setup_env.fingerprint())


def test_pip_without_a_network(setup_env, monkeypatch, capfd):
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', setup_env.ROOT)
    monkeypatch.setattr(setup_env, 'check_disk', lambda: None)
    text = message(setup_env.main)
    assert 'pip ended with 1' in text and 'run make again' in text
    assert not Path(setup_env.STAMP).exists()
    # The environment that was begun serves the next try.
    version = subprocess.run([setup_env.PYTHON, '-m', 'pip', '--version'],
                             capture_output=True)
    assert version.returncode == 0
    setup_env.make_venv()
