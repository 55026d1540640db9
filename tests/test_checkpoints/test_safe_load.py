"""Reading a checkpoint runs nothing, and MMEngine's own can be read."""
import functools
import http.server
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader

import vovnet
from vovnet.checkpoints import load_file
from vovnet.utils.errors import UserError


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'c.pth'


def test_state_of_training_survives(path):
    """What MMEngine saves besides tensors: log histories and numbers."""
    hub = MessageHub('test_state_of_training_survives')
    for value in (4., 1., 3.):
        hub.update_scalar('train/loss', value)
    hub.update_info('best_score', np.float64(0.5))
    hub.update_info('names', ('a', 'b'))
    saved = dict(
        message_hub=hub.state_dict(), state_dict=dict(w=torch.arange(3.)),
        meta=dict(dataset_meta=dict(palette=np.arange(6).reshape(2, 3))))
    torch.save(saved, path)
    loaded = load_file(path)
    assert torch.equal(loaded['state_dict']['w'], torch.arange(3.))
    palette = loaded['meta']['dataset_meta']['palette']
    assert palette.tolist() == [[0, 1, 2], [3, 4, 5]]

    again = MessageHub('again')
    again.load_state_dict(loaded['message_hub'])
    history = again.get_scalar('train/loss')
    assert type(history) is HistoryBuffer
    assert (history.min(), history.current()) == (1., 3.)
    assert history.statistics('mean', 2) == (1. + 3.) / 2
    assert again.get_info('best_score') == 0.5
    history.update(7.)  # training goes on, and is saved again
    torch.save(again.state_dict(), path)
    assert load_file(path)['log_scalars']['train/loss'].max() == 7.


@pytest.mark.parametrize('dtype', [
    'bool', 'uint8', 'int32', 'int64', 'float16', 'float32', 'float64'])
def test_numpy_numbers(dtype, path):
    array = np.ones((2, 3), dtype)
    torch.save([array, array[0, 0]], path)
    loaded, number = load_file(path)
    assert loaded.dtype == array.dtype and (loaded == array).all()
    assert number == array[0, 0]


@pytest.mark.parametrize('name, call', [
    ('exec', Calls(exec, 'raise SystemExit')),
    ('eval', Calls(eval, '1')),
    ('builtins.getattr', Calls(getattr, np.ndarray, 'tofile')),
    ('builtins.getattr', Calls(getattr, torch.Tensor, '__init__')),
    ('functools.partial', Calls(functools.partial, print)),
])
def test_functions_are_refused(name, call, path):
    torch.save(dict(state_dict=dict(), meta=call), path)
    with pytest.raises(UserError) as error:
        load_file(path)
    message = str(error.value)
    assert f'{path}: refused, it asks for {name}, ' in message
    assert '\n' not in message


@pytest.fixture(autouse=True)
def no_notices(recwarn):
    """A refusal is one line: torch must not add its own."""
    yield
    assert not [w for w in recwarn if 'pickle protocol' in str(w.message)
                or 'TorchScript' in str(w.message)]


def zipped(value, path, protocol):
    torch.save(value, path, pickle_protocol=protocol)


def legacy(value, path, protocol):
    torch.save(value, path, pickle_protocol=protocol,
               _use_new_zipfile_serialization=False)


def bare(value, path, protocol):
    path.write_bytes(pickle.dumps(value, protocol))


def within(value, path, protocol):
    """A checkpoint in an archive, as pytorchcv publishes them."""
    torch.save(value, path, pickle_protocol=protocol)
    content = path.read_bytes()
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('c.pth', content)


@pytest.mark.parametrize('protocol', [0, 2, 3, 4, 5])
@pytest.mark.parametrize('save', [zipped, legacy, bare, within])
def test_code_is_named_whatever_the_protocol(save, protocol, path, tmp_path):
    """From protocol 4 on torch does not get as far as the name."""
    marker = tmp_path / 'marker'
    if protocol == 0 and save is not bare:
        return  # torch writes tensors with 2 or later
    save(dict(meta=OrderedDict(), state_dict=Calls(os.mkdir, str(marker))),
         path, protocol)
    with pytest.raises(UserError) as error:
        load_file(path)
    text = str(error.value)
    assert text.startswith(f'checkpoint {path}: refused, it asks for '
                           'posix.mkdir, which could run code (nothing was')
    assert '\n' not in text and not marker.exists()


@pytest.mark.parametrize('protocol', [4, 5])
@pytest.mark.parametrize('save', [zipped, legacy])
def test_weights_of_a_later_protocol(save, protocol, path):
    """They hold no code, but torch cannot read them as data."""
    save(OrderedDict(w=torch.ones(2), v=torch.ones(2).half()), path, protocol)
    with pytest.raises(UserError, match=f'is a pickle of protocol {protocol}, '
                       r'.* torch.save\(..., pickle_protocol=2\)$'):
        load_file(path)
    save(OrderedDict(w=torch.ones(2)), path, 3)
    assert torch.equal(load_file(path)['w'], torch.ones(2))


def test_what_only_begins_like_a_pickle_is_damaged(path):
    bare(dict(a=[1] * 50, b=Calls(exec, '1')), path, 4)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match='is cut short, damaged'):
        load_file(path)


@pytest.mark.parametrize('length', [1, 100, 1500, 5000, 9000])
def test_files_cut_short_anywhere(length, path):
    torch.save(dict(w=torch.ones(3000)), path)
    content = path.read_bytes()
    assert length < len(content)
    path.write_bytes(content[:length])
    with pytest.raises(UserError, match='is cut short, damaged or not a'):
        load_file(path)


def test_damaged_file_is_not_called_hostile(path):
    """An array's bytes name _codecs.encode, which torch can read."""
    torch.save(dict(w=torch.ones(9), a=np.arange(4)), path)
    content = bytearray(path.read_bytes())
    content[content.rindex(b'PK\x03\x04')] = 0  # a record's local header
    path.write_bytes(content)
    with pytest.raises(UserError, match='is cut short, damaged or not a'):
        load_file(path)


def test_torchscript_is_refused(path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    with pytest.raises(UserError, match='refused, it holds a program'):
        load_file(path)


def test_history_brings_no_functions(path, monkeypatch):
    """MMEngine would take them over for every history of the process."""
    history = HistoryBuffer([1., 3.], [1, 1])
    methods = dict(HistoryBuffer._statistics_methods)
    monkeypatch.setattr(HistoryBuffer, '_statistics_methods', methods)
    history._statistics_methods = dict(mean=OrderedDict)
    torch.save(history, path)
    loaded = load_file(path)
    assert type(loaded) is HistoryBuffer
    assert loaded.statistics('mean') == (1. + 3.) / 2
    assert methods['mean'] is HistoryBuffer.mean

    torch.load(path, weights_only=False)  # shows that the file is dangerous
    assert methods['mean'] is OrderedDict


@pytest.fixture
def server(tmp_path):
    """The address of a server of the test's folder."""
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(
        target=server.serve_forever, args=(0.01, ), daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def test_links_are_not_unpickled(path, server, tmp_path, monkeypatch):
    """torch.hub's default would run what is behind a link."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    torch.save(dict(w=torch.ones(1)), path)
    marker = tmp_path / 'marker'
    torch.save(dict(w=Calls(marker.mkdir)), tmp_path / 'evil.pth')
    loaded = CheckpointLoader.load_checkpoint(f'{server}/c.pth', 'cpu')
    assert torch.equal(loaded['w'], torch.ones(1))
    for file, reason in (('evil.pth', 'refused'),
                         ('gone.pth', 'cannot be downloaded')):
        with pytest.raises(UserError, match=f'{file}: {reason}'):
            CheckpointLoader.load_checkpoint(f'{server}/{file}', 'cpu')
    assert not marker.exists()
    torch.hub.load_state_dict_from_url(  # shows that the file is dangerous
        (tmp_path / 'evil.pth').as_uri(), str(tmp_path))
    assert marker.is_dir()


@pytest.mark.parametrize('source, name', [
    ('a.pth', 'local'), ('https://host/a.pth', 'http'),
    ('torchvision://resnet18', 'torchvision'), ('timm://a', 'timm')])
def test_log_names_the_backend(source, name):
    """MMEngine cuts its name out of that of the loader."""
    loader = CheckpointLoader._get_checkpoint_loader(source)
    assert loader.__name__ == f'load_from_{name}'


BARE = """
import sys, vovnet
from mmengine.registry import MODELS
for checkpoint in sys.argv[1:]:
    model = MODELS.build(dict(
        type='VoVNet', arch='V2-19-slim-dw',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))
    try:
        model.init_weights()
    except vovnet.utils.errors.UserError as error:
        print(error)
"""


def test_importing_vovnet_is_enough(server, tmp_path):
    """The backbone alone, in anybody's program, refuses code as well."""
    marker = tmp_path / 'marker'
    torch.save(dict(w=Calls(marker.mkdir)), tmp_path / 'evil.pth')
    done = subprocess.run(
        [sys.executable, '-c', BARE, f'{server}/evil.pth',
         f'{tmp_path}/evil.pth'],
        env={**os.environ, 'TORCH_HOME': str(tmp_path / 'home'),
             'PYTHONPATH': str(Path(vovnet.__file__).parents[1])},
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    by_url, by_path = done.stdout.splitlines()[-2:]
    assert f'{server}/evil.pth: refused' in by_url
    assert f'{tmp_path}/evil.pth: refused' in by_path
    assert not marker.exists()
