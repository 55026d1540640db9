"""timm:// against a cache laid out as huggingface_hub does, without network.
"""
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import foreign
import pytest
import torch
from foreign import NETS
from huggingface_hub import constants
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save

import vovnet
from vovnet.checkpoints import download_weights
from vovnet.utils.errors import UserError

NET = NETS['19-slim-dw']


def put(cache: Path, name: str, content: bytes,
        file: str = 'model.safetensors') -> Path:
    """Store a file as a download would: a blob and a link."""
    repo = cache / f'models--timm--{name}'
    revision = 'a' * 40
    blob = repo / 'blobs' / hashlib.sha256(content).hexdigest()
    link = repo / 'snapshots' / revision / file
    for folder in (blob.parent, link.parent, repo / 'refs'):
        folder.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (repo / 'refs/main').write_text(revision)
    return blob


@pytest.fixture
def state():
    torch.manual_seed(0)
    return foreign.random_weights(NET, foreign.TIMM)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_CACHE',
                        str(tmp_path))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    return tmp_path


def load(name):
    return CheckpointLoader.load_checkpoint(f'timm://{name}', 'cpu')


@pytest.mark.parametrize('asked, stored', [
    ('ese_vovnet19b_dw.ra_in1k', ) * 2,
    ('ese_vovnet19b_dw', 'ese_vovnet19b_dw.ra_in1k'),
    ('ese_vovnet39b', 'ese_vovnet39b.ra_in1k'),
    ('ese_vovnet57b', 'ese_vovnet57b.ra4_e3600_r256_in1k')])
def test_cached_weights(asked, stored, cache, state):
    put(cache, stored, save(state))
    loaded = load(asked)
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_older_format(cache, state, tmp_path):
    torch.save(state, tmp_path / 'w')
    put(cache, 'x.y', (tmp_path / 'w').read_bytes(), 'pytorch_model.bin')
    assert load('x.y').keys() == state.keys()


@pytest.mark.parametrize('damage, told', [
    (lambda c: c[:100], 'is not the file that was published'),
    (lambda c: c[:-4] + b'abcd', 'is not the file that was published')])
def test_damaged_cache(damage, told, cache, state):
    blob = put(cache, 'ese_vovnet19b_dw.ra_in1k', save(state))
    blob.write_bytes(damage(blob.read_bytes()))
    with pytest.raises(UserError, match=told) as error:
        load('ese_vovnet19b_dw')
    assert 'removed from the cache' in str(error.value)
    assert '\n' not in str(error.value) and not blob.exists()
    with pytest.raises(UserError, match='not in the cache'):
        load('ese_vovnet19b_dw')
    link = next(cache.glob('*/snapshots/*')) / 'model.safetensors'
    assert not link.is_symlink()


def test_not_published(cache):
    with pytest.raises(UserError, match='timm://ese_vovnet99b: timm has never '
                       'published .*ese_vovnet39b.ra_in1k'):
        load('ese_vovnet99b')


CONFIG = """
import sys, torch, vovnet
from mmengine.registry import MODELS
model = MODELS.build(dict(type='VoVNet', arch='V2-19-slim-dw', init_cfg=dict(
    type='Pretrained', checkpoint='timm://' + sys.argv[1])))
model.init_weights()
torch.save(model.eval()(torch.ones(1, 3, 64, 64)), sys.argv[2])
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs."""

    def do_HEAD(self):
        content = self.server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header('X-Error-Code', 'EntryNotFound')
            self.send_header('Content-Length', '0')
            return self.end_headers()
        self.send_response(200)
        self.send_header('X-Repo-Commit', 'a' * 40)
        self.send_header('ETag', hashlib.sha256(content).hexdigest())
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.server.files.get(self.path, b''))

    def log_message(self, *args):
        pass


def test_downloaded_then_offline(state, tmp_path, monkeypatch):
    """In a program of its own, with ``HF_HOME`` as the user sets it.

    The repository has the older format only, as some of timm's have.
    """
    torch.save(state, tmp_path / 'w')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    server.files = {'/timm/any.tag/resolve/main/pytorch_model.bin':
                    (tmp_path / 'w').read_bytes()}
    threading.Thread(
        target=server.serve_forever, args=(0.01, ), daemon=True).start()

    done = subprocess.run(
        [sys.executable, '-c', CONFIG, 'any.tag', str(tmp_path / 'out')],
        env={**os.environ, 'HF_HOME': str(tmp_path / 'home'),
             'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
             'NO_PROXY': '*',
             'PYTHONPATH': str(Path(vovnet.__file__).parents[1])},
        capture_output=True, text=True)
    server.shutdown()
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        want = foreign.evaluate(state, NET, foreign.TIMM,
                                torch.ones(1, 3, 64, 64))
    for a, b in zip(torch.load(tmp_path / 'out'), want, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'home/hub'))
    assert load('any.tag').keys() == state.keys()  # the server is gone


def test_not_in_the_cache(cache):
    with pytest.raises(UserError) as error:
        load('other.tag')
    text = str(error.value)
    assert 'checkpoint timm://other.tag: not in the cache' in text
    assert 'https://huggingface.co/timm/other.tag' in text
    assert '\n' not in text


ALONE = """
import sys, time, vovnet
from vovnet.utils.errors import report_user_errors
from mmengine.runner.checkpoint import CheckpointLoader
with report_user_errors():
    start = time.monotonic()
    try:
        CheckpointLoader.load_checkpoint('timm://ese_vovnet39b', 'cpu')
    finally:
        print(time.monotonic() - start)
"""


def test_no_network_is_one_line_at_once(tmp_path):
    """The hub itself would ask six times within 23 seconds, and log each."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', ALONE],
        env={**os.environ, 'HF_HOME': str(tmp_path), 'NO_PROXY': '*',
             'HF_ENDPOINT': 'http://127.0.0.1:9',
             'PYTHONPATH': str(Path(vovnet.__file__).parents[1])},
        capture_output=True, text=True)
    line, = done.stderr.splitlines()
    assert line.startswith('error: checkpoint timm://ese_vovnet39b.ra_in1k: '
                           'not in the cache and cannot be downloaded (')
    assert 'refused' in line
    assert float(done.stdout.splitlines()[-1]) < 5 and done.returncode == 1


@pytest.fixture
def in_folder(cache, state):
    blob = put(cache, 'ese_vovnet39b.ra_in1k', save(state))
    folder = cache / 'mine'

    def download():
        return download_weights(
            'timm/ese_vovnet39b.ra_in1k', 'model-index.yml', str(folder))

    return blob, folder, download


def test_copy_into_a_folder(in_folder):
    blob, folder, download = in_folder
    for _ in range(2):
        entry, path = download()
        assert Path(path) == folder / 'ese_vovnet39b.ra_in1k.safetensors'
        assert not Path(path).is_symlink()
        assert Path(path).read_bytes() == blob.read_bytes()
        assert os.listdir(folder) == [Path(path).name]
        Path(path).write_bytes(b'spoilt')  # and made anew
    assert entry.license == 'Apache-2.0'


def test_damaged_file_is_not_copied(in_folder):
    blob, folder, download = in_folder
    content = blob.read_bytes()
    blob.write_bytes(content[:-4] + b'abcd')
    with pytest.raises(UserError, match='is not the file that was published'):
        download()
    assert not blob.exists() and not folder.exists()


def test_damaged_copy_is_not_kept(in_folder, monkeypatch):
    """The disk, or the way to it, changes a byte."""
    blob, folder, download = in_folder
    content = blob.read_bytes()
    monkeypatch.setattr(
        shutil, 'copyfile',
        lambda source, target: Path(target).write_bytes(content[:-1] + b'x'))
    with pytest.raises(UserError, match='is not the file that was published'):
        download()
    assert os.listdir(folder) == [] and blob.exists()


def test_a_damaged_cache_is_not_handed_out(cache, state):
    blob = put(cache, 'ese_vovnet39b.ra_in1k', save(state))
    blob.write_bytes(blob.read_bytes()[:-4] + b'abcd')
    with pytest.raises(UserError, match='removed from the cache'):
        download_weights('timm/ese_vovnet39b.ra_in1k', 'model-index.yml')
