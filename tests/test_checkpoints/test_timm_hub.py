"""timm:// against a cache laid out as huggingface_hub does, without network.
"""
import hashlib
import os
import shutil
from pathlib import Path

import foreign
import pytest
import torch
from foreign import NETS
from huggingface_hub import constants
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save

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


NAME = 'ese_vovnet39b.ra_in1k'


@pytest.mark.parametrize('damage', [
    lambda c: c[:100], lambda c: c[:-4] + b'abcd'])
@pytest.mark.parametrize('get', [
    lambda folder: load(NAME),
    lambda folder: download_weights(f'timm/{NAME}', 'model-index.yml'),
    lambda folder: download_weights(
        f'timm/{NAME}', 'model-index.yml', str(folder))])
def test_damaged_cache_is_not_handed_out(get, damage, cache, state):
    blob = put(cache, NAME, save(state))
    blob.write_bytes(damage(blob.read_bytes()))
    with pytest.raises(UserError, match='is not the file that was published.*'
                       'removed from the cache') as error:
        get(cache / 'mine')
    assert '\n' not in str(error.value) and not blob.exists()
    assert not (cache / 'mine').exists()
    with pytest.raises(UserError, match='not in the cache'):
        get(cache / 'mine')
    link = next(cache.glob('*/snapshots/*')) / 'model.safetensors'
    assert not link.is_symlink()


def test_not_published(cache):
    with pytest.raises(UserError, match='timm://ese_vovnet99b: timm has never '
                       'published .*ese_vovnet39b.ra_in1k'):
        load('ese_vovnet99b')


def test_not_in_the_cache(cache):
    with pytest.raises(UserError) as error:
        load('other.tag')
    text = str(error.value)
    assert 'checkpoint timm://other.tag: not in the cache' in text
    assert 'https://huggingface.co/timm/other.tag' in text
    assert '\n' not in text


def test_copy_into_a_folder(cache, state):
    blob, folder = put(cache, NAME, save(state)), cache / 'mine'
    for _ in range(2):
        entry, path = download_weights(
            f'timm/{NAME}', 'model-index.yml', str(folder))
        assert Path(path) == folder / f'{NAME}.safetensors'
        assert not Path(path).is_symlink()
        assert Path(path).read_bytes() == blob.read_bytes()
        assert os.listdir(folder) == [Path(path).name]
        Path(path).write_bytes(b'spoilt')  # and made anew
    assert entry.license == 'Apache-2.0'


def test_damaged_copy_is_not_kept(cache, state, monkeypatch):
    """The disk, or the way to it, changes a byte."""
    blob, folder = put(cache, NAME, save(state)), cache / 'mine'
    content = blob.read_bytes()
    monkeypatch.setattr(
        shutil, 'copyfile',
        lambda source, target: Path(target).write_bytes(content[:-1] + b'x'))
    with pytest.raises(UserError, match='is not the file that was published'):
        download_weights(f'timm/{NAME}', 'model-index.yml', str(folder))
    assert os.listdir(folder) == [] and blob.exists()
