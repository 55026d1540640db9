"""The set-up: what it refuses, and that it knows when it is done."""
import importlib.util
import json
import os
import re
import shutil
import sys
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import pytest

from vovnet.version import OLDEST_TORCH

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup_env(tmp_path, monkeypatch):
    """The script as a module, at work in a checkout without .venv."""
    for name in ('requirements', 'tools/misc'):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ('setup.py', 'pyproject.toml'):
        shutil.copy(ROOT / name, tmp_path)
    spec = importlib.util.spec_from_file_location(
        'setup_env', tmp_path / 'tools/misc/setup_env.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.ROOT == tmp_path
    return module


def message(action):
    with pytest.raises(SystemExit) as stopped:
        action()
    text = str(stopped.value)
    assert text.startswith('setup: ') and '\n' not in text
    return text


@pytest.fixture
def env(setup_env):
    """The environment that it makes."""
    return setup_env.Environment(setup_env.ROOT / '.venv')


@pytest.fixture
def this_env(env):
    """The environment that the tests run in, as if it were there."""
    env.python = sys.executable
    return env


@pytest.mark.parametrize('version', [(3, 6, 9), (3, 9, 0)])
def test_wrong_python(setup_env, monkeypatch, env, version):
    monkeypatch.setattr(sys, 'version_info', version)
    text = message(lambda: setup_env.main([]))
    assert f'{version[0]}.{version[1]} ' in text and '3.10 or later' in text
    assert 'make PYTHON=' in text
    assert not env.folder.exists()


def test_old_pythons_can_read_it():
    """No syntax that would hide the message about the version."""
    source = (ROOT / 'tools/misc/setup_env.py').read_text()
    compile(source, 'setup_env.py', 'exec')
    import ast
    assert ast.parse(source, feature_version=(3, 4))


def test_untried_python_is_named_and_taken(setup_env, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'version_info', (3, 99, 0))
    setup_env.check_python()
    assert capsys.readouterr().out == (
        'setup: Python 3.99 has not been tried; 3.10 to 3.14 have\n')


def test_bounds_are_those_of_the_package(setup_env):
    project = (ROOT / 'pyproject.toml').read_text()
    assert 'requires-python = ">={}.{}"'.format(*setup_env.OLDEST) in project
    assert f'"torch>={setup_env.OLDEST_TORCH}"' in project
    assert setup_env.OLDEST_TORCH == OLDEST_TORCH
    minors = range(setup_env.OLDEST[1], setup_env.NEWEST[1] + 1)
    assert re.findall(r'"Programming Language :: Python :: 3\.(\d+)"',
                      project) == list(map(str, minors))


NONE, BOTH = {}, dict(torch='2.13.0+cpu', torchvision='0.28.0+cpu')
INDEX = 'file:///builds/for/cpu'


@pytest.mark.parametrize('have, wanted, index, known, given', [
    (NONE, '', '', '', ['-r', 'requirements/torch.txt']),
    (NONE, '', INDEX, '',
     ['--index-url', INDEX, '-r', 'requirements/torch.txt']),
    (NONE, '2.12.1', '', '', ['torch==2.12.1', 'torchvision']),
    # What is there and fits is kept, also the build of another index.
    (BOTH, '', '', '', []),
    (BOTH, '2.13.0', '', '', []),
    (BOTH, '', INDEX, INDEX, []),
    (dict(torch='2.13.0'), '', '', '', ['torch==2.13.0', 'torchvision']),
    (BOTH, '2.12.1', '', '', ['torch==2.12.1', 'torchvision']),
    (dict(BOTH, torch='2.13.0'), '2.13', '', '', []),
    (BOTH, '2.13+cpu', '', '', []),
    (BOTH, '2.13.0+cu130', '', '', ['torch==2.13.0+cu130', 'torchvision']),
    # What came from an index goes on coming from there.
    (BOTH, '2.12.1', '', INDEX,
     ['--index-url', INDEX, 'torch==2.12.1', 'torchvision']),
    (dict(torch='2.13.0+cpu'), '', '', INDEX,
     ['--index-url', INDEX, 'torch==2.13.0+cpu', 'torchvision']),
    (BOTH, '2.12.1', INDEX, '',
     ['--index-url', INDEX, 'torch==2.12.1', 'torchvision']),
])
def test_which_torch(setup_env, have, wanted, index, known, given):
    assert setup_env.choose_torch(have, wanted, index, known) == given


@pytest.mark.parametrize('have, index, told', [
    (dict(torch='2.4.1+cu121'), '',
     ['torch 2.4.1+cu121, which .venv has, is too old', 'TORCH=']),
    (BOTH, INDEX, ['.venv has torch 2.13.0+cpu already', 'remove .venv']),
])
def test_torch_that_cannot_stay(setup_env, have, index, told):
    text = message(lambda: setup_env.choose_torch(have, '', index, ''))
    assert all(part in text for part in told)


@pytest.mark.parametrize('wanted, told', [
    ('2.4.1', ['TORCH=2.4.1 is too old', f'{OLDEST_TORCH} or later']),
    ('newest', ['TORCH=newest is not a version of torch']),
    ('2', ['TORCH=2 is not a version']),
])
def test_torch_that_will_not_do(setup_env, env, wanted, told):
    text = message(lambda: setup_env.main(['--torch', wanted]))
    assert all(part in text for part in told)
    assert not env.folder.exists()


@pytest.mark.parametrize('index, needed', [('', 9), (INDEX, 3)])
def test_no_room(setup_env, monkeypatch, env, index, needed):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(setup_env.shutil, 'disk_usage',
                        lambda path: usage(9e9, 8e9, 1e9))
    text = message(lambda: setup_env.main(['--torch-index', index]))
    assert '1.0 GB' in text and str(setup_env.ROOT) in text
    assert f'{needed} GB are needed' in text
    assert not env.folder.exists()


def fake_distribution(folder, name):
    info = folder / f'{name.replace("-", "_")}-1.0.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')


@pytest.mark.parametrize('extra, told', [
    ('mmcv', 'mmcv comes from two distributions in .venv, mmcv and mmcv-lite'),
    ('onedl-mmdetection', 'mmdet comes from two distributions'),
    ('onedl-mmengine', 'mmengine comes from two distributions')])
def test_two_providers(this_env, monkeypatch, tmp_path, extra, told):
    """Beside those that this environment really has."""
    fake_distribution(tmp_path / 'site', extra)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site'))
    text = message(this_env.list_packages)
    assert told in text and 'uninstall' in text


def test_one_provider_each(this_env):
    dists, complete, torch = this_env.list_packages()
    assert complete and len(dists) == 4
    assert torch == {name: version(name) for name in ('torch', 'torchvision')}


@pytest.mark.parametrize('name', ['.venv', '.venv/thesis.txt'])
def test_what_is_no_environment_is_kept(env, name):
    thesis = env.folder.parent / name
    thesis.parent.mkdir(exist_ok=True)
    thesis.write_text('years of work')
    assert 'move it away' in message(env.is_usable)
    assert thesis.read_text() == 'years of work'


@pytest.mark.parametrize('kept', [True, False])
def test_little_room_for_what_is_there(setup_env, this_env, monkeypatch,
                                       kept):
    """What torch needs is asked for only where it is to be installed."""
    this_env.folder.mkdir()
    monkeypatch.setattr(setup_env, 'Environment', lambda folder: this_env)
    monkeypatch.setattr(this_env, 'is_usable', lambda: True)
    monkeypatch.setattr(setup_env, 'check_disk', lambda gb: sys.exit(gb))
    with pytest.raises(SystemExit) as stopped:
        setup_env.main(['--torch', '' if kept else '2.99.0'])
    assert stopped.value.code == (1 if kept else 9)


def test_a_set_up_that_stopped_goes_on(setup_env, this_env, monkeypatch):
    """With the torch of the index that it had been told."""
    this_env.folder.mkdir()
    monkeypatch.setattr(setup_env, 'Environment', lambda folder: this_env)
    monkeypatch.setattr(setup_env, 'check_disk', lambda gb: None)
    monkeypatch.setattr(this_env, 'is_usable', lambda: True)
    have, calls = {}, []
    monkeypatch.setattr(this_env, 'list_packages', lambda: ([], True, have))

    def install(*args):
        calls.append(args)
        if len(calls) == 1:
            have.update(BOTH)
        if len(calls) == 2:
            sys.exit('setup: pip ended with 1')

    monkeypatch.setattr(this_env, 'install', install)
    with pytest.raises(SystemExit, match='pip ended'):
        setup_env.main(['--torch-index', INDEX])
    assert INDEX in calls[0]
    setup_env.main(['--torch-index', INDEX])
    assert not any(INDEX in args for args in calls[1:])
    assert this_env.read_note() == dict(
        source=setup_env.compute_fingerprint(), index=INDEX)


def test_what_uv_has_made_is_left_to_uv(setup_env, env, capsys):
    env.folder.mkdir()
    (env.folder / 'pyvenv.cfg').write_text('home = /usr/bin\nuv = 0.13.9\n')
    setup_env.main([])
    assert 'made by uv and is left to it' in capsys.readouterr().out
    assert 'which chooses its torch' in message(
        lambda: setup_env.main(['--torch', '2.12.1']))
    assert [p.name for p in env.folder.iterdir()] == ['pyvenv.cfg']


def test_done_is_known(setup_env, capsys, monkeypatch, env):
    (env.folder / 'bin').mkdir(parents=True)
    env.python.symlink_to(sys.executable)
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(sys.path))
    env.note.write_text(json.dumps(
        dict(source=setup_env.compute_fingerprint(), index='')))
    for torch in ('', version('torch').partition('+')[0]):
        setup_env.main(['--torch', torch])
        assert capsys.readouterr().out == 'setup: .venv is up to date\n'
    # Another torch, or other requirements, make another environment.
    monkeypatch.setattr(setup_env, 'check_disk', lambda needed: sys.exit(7))
    with pytest.raises(SystemExit, match='7'):
        setup_env.main(['--torch', '2.99.0'])
    with open(setup_env.ROOT / 'requirements/torch.txt', 'a') as file:
        file.write('one-more-package\n')
    with pytest.raises(SystemExit, match='7'):
        setup_env.main([])


def test_broken_environment_is_made_anew_without_a_network(
        setup_env, monkeypatch, env, capfd):
    """Its Python is gone, and pip has to stop."""
    (env.folder / 'bin').mkdir(parents=True)
    (env.folder / 'pyvenv.cfg').write_text('home = /gone\n')
    env.python.symlink_to('/gone/python3')
    assert not env.is_usable()
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(setup_env.ROOT))
    monkeypatch.setattr(setup_env, 'check_disk', lambda needed: None)
    text = message(lambda: setup_env.main([]))
    assert 'making it anew' in capfd.readouterr().out
    assert 'pip ended with 1' in text and 'run make again' in text
    assert env.read_note() == dict(source='', index='')  # so it is not done
    # The environment that was begun serves the next try.
    assert env.is_usable()
