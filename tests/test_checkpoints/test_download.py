"""Downloads are whole, checked, resumed, or not there."""
import hashlib
import http.server
import os
import socket
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from vovnet.checkpoints import download, download_weights, fetch, metafiles
from vovnet.checkpoints import fetch_by_name as by_name
from vovnet.checkpoints.known_weights import KNOWN_WEIGHTS
from vovnet.utils.errors import UserError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``, with ranges and with the faults asked for."""

    def do_GET(self):
        server, name = self.server, self.path.split('?')[0].lstrip('/')
        server.requests.append((name, self.headers.get('Range')))
        if server.busy:
            server.busy -= 1
            return self.send_error(503)
        if name not in server.files:
            return self.send_error(404)
        content, start = server.files[name], 0
        if server.ranges and 'Range' in self.headers:
            start = int(self.headers['Range'][len('bytes='):-1])
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-'
                             f'{len(content) - 1}/{len(content)}')
        else:
            self.send_response(200)
        if server.etags:
            self.send_header('ETag', hashlib.md5(content).hexdigest())
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        stop = len(content)
        if server.breaks:  # the connection ends early
            stop = start + server.breaks.pop(0)
        self.wfile.write(content[start:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    found = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    found.files, found.requests, found.breaks = {}, [], []
    found.busy, found.ranges, found.etags = 0, True, True
    threading.Thread(
        target=found.serve_forever, args=(0.01, ), daemon=True).start()
    found.url = f'http://127.0.0.1:{found.server_port}/'
    yield found
    found.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(download, 'WAITS', (0, 0))
    return tmp_path / 'hub/checkpoints'


@pytest.fixture
def weights(tmp_path):
    torch.save(dict(w=torch.arange(500.)), tmp_path / 'w.pth')
    return (tmp_path / 'w.pth').read_bytes()


def kept(cache):
    """Names in the cache, apart from locks."""
    return [p.name for p in cache.iterdir() if p.suffix != '.lock']


def report_user_errors(error):
    assert '\n' not in str(error.value)
    return str(error.value)


def test_downloaded_once(server, cache, weights):
    server.files['w-01234567.pth'] = weights
    for _ in range(2):
        path = fetch(server.url + 'w-01234567.pth')
        assert Path(path).read_bytes() == weights
        assert path == str(cache / 'w-01234567.pth')  # as torch.hub has it
    assert len(server.requests) == 1 and kept(cache) == ['w-01234567.pth']


def test_same_name_elsewhere_is_another_file(server, cache, weights):
    server.files = {'a/model_final.pth': weights, 'b/model_final.pth': b'else'}
    paths = [fetch(f'{server.url}{d}/model_final.pth') for d in 'ab']
    assert [Path(p).read_bytes() for p in paths] == [weights, b'else']


def test_broken_transfers_go_on(server, cache, weights):
    server.files['w.pth'] = weights
    server.breaks = [1000, 700]
    assert Path(fetch(server.url + 'w.pth?dl=1')).read_bytes() == weights
    assert [r for _, r in server.requests] == [
        None, 'bytes=1000-', 'bytes=1700-']
    assert len(kept(cache)) == 1


def test_goes_on_another_day(server, cache, weights):
    """What is left of three broken attempts serves the next call."""
    server.files['w.pth'] = weights
    server.breaks = [1000, 100, 10]
    with pytest.raises(UserError) as error:
        fetch(server.url + 'w.pth')
    assert (f'cannot be downloaded (only 1110 of {len(weights)} bytes came)'
            in report_user_errors(error))
    assert [name[-5:] for name in kept(cache)] == ['.part']
    assert Path(fetch(server.url + 'w.pth')).read_bytes() == weights
    assert server.requests[-1] == ('w.pth', 'bytes=1110-')


@pytest.mark.parametrize('ranges, etags', [(True, True), (False, True),
                                           (True, False)])
def test_versions_are_not_mixed(ranges, etags, server, cache, weights):
    """The file changes, or the server cannot go on or cannot tell."""
    server.ranges, server.etags = ranges, etags
    server.files['w.pth'] = bytes(len(weights))
    server.breaks = [1000, 0, 0]
    with pytest.raises(UserError):
        fetch(server.url + 'w.pth')
    server.files['w.pth'] = weights
    assert Path(fetch(server.url + 'w.pth')).read_bytes() == weights


def test_partial_longer_than_the_file(server, cache, weights):
    server.files['w.pth'] = weights + bytes(100)
    server.breaks = [len(weights) + 50, 0, 0]
    with pytest.raises(UserError):
        fetch(server.url + 'w.pth')
    server.files['w.pth'] = weights
    assert Path(fetch(server.url + 'w.pth')).read_bytes() == weights


def test_busy_server_is_asked_again(server, cache, weights):
    server.files['w.pth'], server.busy = weights, 2
    fetch(server.url + 'w.pth')
    assert len(server.requests) == 3


def test_what_is_not_there_is_asked_for_once(server, cache):
    with pytest.raises(UserError, match='404 Not Found.*give the path'):
        fetch(server.url + 'gone.pth')
    assert len(server.requests) == 1 and kept(cache) == []


def test_no_network(cache):
    with pytest.raises(UserError) as error:
        fetch('http://127.0.0.1:9/w.pth')
    text = report_user_errors(error)
    assert 'checkpoint http://127.0.0.1:9/w.pth: cannot be downloaded' in text
    assert 'refused' in text and 'check the connection' in text


def test_no_name_server_is_not_asked_for_long(cache, monkeypatch):
    waits = []
    monkeypatch.setattr(download, 'WAITS', (1, 2, 4, 8))
    monkeypatch.setattr(download.time, 'sleep', waits.append)

    def not_found(*args, **kwargs):
        raise URLError(socket.gaierror(-2, 'Name or service not known'))

    monkeypatch.setattr(download, 'urlopen', not_found)
    with pytest.raises(UserError, match='Name or service not known'):
        fetch('https://host/w.pth')
    assert waits == [1]


@pytest.mark.parametrize('algorithm', ['sha256', 'sha1'])
def test_checksum(algorithm, server, cache, weights):
    server.files['w.pth'] = weights
    digest = hashlib.new(algorithm, weights).hexdigest()
    name = '' if algorithm == 'sha256' else f'{algorithm}:'
    fetch(server.url + 'w.pth', f'{name}{digest}')
    fetch(server.url + 'w.pth', f'{name}{digest[:8].upper()}')
    assert len(server.requests) == 1
    # A cached file that has changed is fetched again.
    (cache / kept(cache)[0]).write_bytes(weights[:-1] + b'x')
    path = fetch(server.url + 'w.pth', f'{name}{digest}')
    assert Path(path).read_bytes() == weights and len(server.requests) == 2
    with pytest.raises(UserError, match='not the file that was published'):
        fetch(server.url + 'w.pth', f'{name}{digest[::-1]}')
    assert kept(cache) == []


def test_checksum_of_a_file_in_an_archive(server, cache, weights, tmp_path):
    """pytorchcv gives the SHA-1 of what is inside."""
    with zipfile.ZipFile(tmp_path / 'w.pth.zip', 'w') as archive:
        archive.writestr('w.pth', weights)
    server.files['w.pth.zip'] = (tmp_path / 'w.pth.zip').read_bytes()
    fetch(server.url + 'w.pth.zip',
          f'sha1:{hashlib.sha1(weights).hexdigest()}')
    loaded = CheckpointLoader.load_checkpoint(server.url + 'w.pth.zip')
    assert torch.equal(loaded['w'], torch.arange(500.))
    assert len(server.requests) == 1


@pytest.mark.parametrize('spoil, told', [
    (lambda w: b'<!DOCTYPE html><title>Sign in</title>', 'is a web page'),
    (lambda w: b'', 'is empty'),
    (lambda w: b'version https://git-lfs.github.com/spec/v1', 'Git LFS'),
    (lambda w: w[:len(w) // 2], 'is cut short, damaged'),
    (lambda w: w.replace(torch.ones(1).numpy().tobytes(), b'XXXX'),
     'is damaged'),
    (lambda w: b'{"message": "rate limited"}', 'damaged or not a PyTorch'),
])
def test_bad_files_are_not_kept(spoil, told, server, cache, weights):
    """Each through MMEngine's loader, as from a config."""
    server.files['w.pth'] = spoil(weights)
    assert server.files['w.pth'] != weights
    with pytest.raises(UserError) as error:
        CheckpointLoader.load_checkpoint(server.url + 'w.pth')
    text = report_user_errors(error)
    assert text.startswith(f'checkpoint {server.url}w.pth: ')
    assert told in text and 'removed from the cache' in text
    assert kept(cache) == []
    server.files['w.pth'] = weights
    loaded = CheckpointLoader.load_checkpoint(server.url + 'w.pth')
    assert torch.equal(loaded['w'], torch.arange(500.))


def test_checksum_in_an_address(server, cache, weights):
    """For configs: ``checkpoint='https://...#sha256=...'``."""
    server.files['w.pth'] = weights
    digest = hashlib.sha256(weights).hexdigest()
    url = f'{server.url}w.pth#sha256='
    loaded = CheckpointLoader.load_checkpoint(url + digest)
    assert torch.equal(loaded['w'], torch.arange(500.))
    server.files['w.pth'] = weights + b'x'
    with pytest.raises(UserError, match='not the file that was published'):
        CheckpointLoader.load_checkpoint(url + digest[::-1])
    assert kept(cache) == []


def test_checksum_in_a_metafile(server, cache, weights, tmp_path, monkeypatch):
    """Counts for whoever names the address: a config, a command line."""
    digest = hashlib.sha256(weights).hexdigest()
    (tmp_path / 'metafile.yml').write_text(
        f'Models: [{{Name: mine, Weights: "{server.url}w.pth", '
        f'Metadata: {{SHA256: {digest}}}}}]')
    (tmp_path / 'model-index.yml').write_text('Import: [metafile.yml]')
    monkeypatch.setattr(metafiles, 'INDEX', str(tmp_path / 'model-index.yml'))
    server.files['w.pth'] = weights
    loaded = CheckpointLoader.load_checkpoint(server.url + 'w.pth')
    assert torch.equal(loaded['w'], torch.arange(500.))
    # What an address says itself comes first.
    with pytest.raises(UserError, match='expected 0000'):
        CheckpointLoader.load_checkpoint(f'{server.url}w.pth#sha256=0000')
    CheckpointLoader.load_checkpoint(server.url + 'w.pth')
    # A whole file of weights, but another.
    torch.save(dict(w=torch.zeros(500)), tmp_path / 'other.pth')
    server.files['w.pth'] = (tmp_path / 'other.pth').read_bytes()
    os.remove(cache / kept(cache)[0])
    with pytest.raises(UserError, match='not the file that was published'):
        CheckpointLoader.load_checkpoint(server.url + 'w.pth')
    assert kept(cache) == []


def test_checksum_that_yaml_takes_for_a_number(tmp_path):
    (tmp_path / 'metafile.yml').write_text(
        'Models: [{Name: mine, Weights: "http://a/w.pth", '
        'Metadata: {SHA256: 00112233}}]')
    (tmp_path / 'model-index.yml').write_text('Import: [metafile.yml]')
    with pytest.raises(UserError, match='SHA256 of mine: YAML reads it as '
                       '38043; put it in quotes'):
        metafiles.read_metafiles(str(tmp_path / 'model-index.yml'))


def test_together(server, cache, weights):
    """Processes that want the same file: one fetches, the others wait."""
    server.files['w.pth'] = weights
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(fetch, [server.url + 'w.pth'] * 4))
    assert len(paths) == 1 and len(server.requests) == 1
    assert Path(paths.pop()).read_bytes() == weights


def test_full_disk_is_not_the_networks_fault(server, cache, weights,
                                             monkeypatch):
    server.files['w.pth'] = weights
    cache.mkdir(parents=True)
    monkeypatch.setattr(os, 'replace', lambda *a: (_ for _ in ()).throw(
        OSError(28, 'No space left on device')))
    with pytest.raises(OSError, match='No space left'):
        fetch(server.url + 'w.pth')


@pytest.mark.parametrize('content', [
    b'Access denied: try again later', b'<head><title>Dropbox</title>',
    b'\xef\xbb\xbf<body>gone</body>'])
def test_what_no_checksum_tells_is_found_out(monkeypatch, tmp_path, content):
    """Weights by name are read once before anybody is told of success."""
    file = tmp_path / 'a.pth'
    file.write_bytes(content)
    name, entry = next((key, value) for key, value in KNOWN_WEIGHTS.items()
                       if not value.url.startswith('timm://'))
    monkeypatch.setattr(by_name, 'fetch', lambda *args: str(file))
    with pytest.raises(UserError, match='removed from the cache') as error:
        download_weights(name, 'model-index.yml')
    assert entry.url in str(error.value)
    assert not file.exists()
