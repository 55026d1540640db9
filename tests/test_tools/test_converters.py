"""The converters and the download of weights, on the command line."""
import functools
import hashlib
import http.server
import sys
import threading

import pytest
import timm
import torch
from mmengine.runner.checkpoint import save_checkpoint
from tool_runs import ROOT, hashes

from vovnet.checkpoints import load_file
from vovnet.models import VoVNet

sys.path.insert(0, str(ROOT / 'tests/test_checkpoints'))
import foreign
from foreign import NETS

CONVERT = 'tools/model_converters/vovnet_to_mmengine.py'
PUBLISH = 'tools/model_converters/publish_model.py'
DOWNLOAD = 'tools/misc/download_weights.py'


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def error_line(run, *parts):
    lines = run.stderr.strip().splitlines()
    assert run.returncode == 1 and len(lines) == 1, run.stderr
    assert lines[0].startswith('error: ')
    for part in parts:
        assert str(part) in lines[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_from_timm_and_back(run_tool, tmp_path):
    """timm itself takes what comes back, as safetensors too."""
    theirs = timm.create_model('ese_vovnet19b_dw', num_classes=3)
    torch.save(dict(state_dict=theirs.state_dict(), epoch=3),
               tmp_path / 'theirs.pth')
    run = run_tool(tmp_path, CONVERT, 'theirs.pth', 'out/ours.pth')
    assert run.returncode == 0, run.stderr
    assert "arch='V2-19-dw'" in run.stdout and 'bgr_to_rgb=True' in run.stdout
    ours = load_file(tmp_path / 'out/ours.pth')
    assert ours.keys() == {'meta', 'state_dict'}
    assert ours['meta'] == dict(
        arch='V2-19-dw', source='theirs.pth', scheme='timm')
    model = VoVNet('V2-19-dw', init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'out/ours.pth')))
    model.init_weights()
    for name in ('back.pth', 'back.safetensors'):
        run = run_tool(tmp_path, CONVERT, 'out/ours.pth', name, '--to', 'timm')
        assert run.returncode == 0, run.stderr
        back = timm.create_model(
            'ese_vovnet19b_dw', num_classes=3,
            checkpoint_path=str(tmp_path / name)).eval()
        assert same(back.state_dict(), theirs.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(
            model.eval()(x)[-1], back.forward_features(x), rtol=1e-5,
            atol=1e-5)


@pytest.mark.parametrize('to, prefix', [
    ('detectron2', 'backbone.bottom_up.'), ('mmdet3d', 'img_backbone.'),
    ('authors', '')])
def test_to_the_authors(to, prefix, run_tool, tmp_path):
    state = foreign.random_weights(NETS['19-slim'], foreign.AUTHORS)
    theirs = {'backbone.bottom_up.' + k: v for k, v in state.items()}
    torch.save(dict(model={**theirs, 'proposal.w': torch.ones(1)}),
               tmp_path / 'd2.pth')
    back = ['ours.pth', 'back.pth', '--to', to]
    if to == 'mmdet3d':  # whose users divide images by another deviation
        error_line(run_tool(tmp_path, CONVERT, 'd2.pth', *back[1:]),
                   'd2.pth: the weights want', '--images keep')
        assert not (tmp_path / 'back.pth').exists()
        back += ['--images', 'keep']
    for args in (['d2.pth', 'ours.pth'], back):
        run = run_tool(tmp_path, CONVERT, *args)
        assert run.returncode == 0, run.stderr
        if args[0] == 'd2.pth':
            assert '1 of the file left out (proposal.w)' in run.stdout
    assert same(load_file(tmp_path / 'back.pth'),
                {prefix + k: v for k, v in state.items()})


def test_what_cannot_be_converted(run_tool, tmp_path):
    state = foreign.random_weights(NETS['tiny'], foreign.AUTHORS)
    torch.save(state, tmp_path / 'a.pth')
    torch.save({'conv1.weight': torch.ones(1), 'layer1.0.conv1.weight':
                torch.ones(1)}, tmp_path / 'resnet.pth')
    (tmp_path / 'page.pth').write_text('<!doctype html>\n<p>Sign in')
    content = (tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'half.pth').write_bytes(content[:len(content) // 2])
    before = hashes(tmp_path)
    for args, *parts in (
            (['a.pth', 'b.pth', '--to', 'timm'], 'a.pth', 'last block'),
            (['resnet.pth', 'b.pth'], 'resnet.pth', 'looks like a ResNet'),
            (['page.pth', 'b.pth'], 'page.pth', 'web page'),
            (['half.pth', 'b.pth'], 'half.pth', 'cut short'),
            (['no.pth', 'b.pth'], 'no.pth', 'no such file'),
            (['a.pth', '.'], '.: is a folder')):
        error_line(run_tool(tmp_path, CONVERT, *args), *parts)
    after = hashes(tmp_path)
    assert {k: after.get(k) for k in before} == before
    assert not list(tmp_path.glob('*b.pth*'))


@pytest.fixture
def trained(tmp_path):
    """What a runner saves, and the weights in it."""
    model = VoVNet('V2-19-slim-dw')
    path = tmp_path / 'epoch_1.pth'
    save_checkpoint(dict(
        meta=dict(epoch=1, dataset_meta=dict(classes=('a', ))),
        state_dict=model.state_dict(), message_hub=dict(x=1),
        optimizer=dict(state={0: torch.ones(1000)}), param_schedulers=[]),
        str(path))
    return path, model.state_dict()


def test_published(trained, run_tool, tmp_path):
    path, weights = trained
    run = run_tool(tmp_path, PUBLISH, path, 'give/vovnet.pth')
    assert run.returncode == 0, run.stderr
    written, = (tmp_path / 'give').iterdir()
    digest = hashlib.sha256(written.read_bytes()).hexdigest()
    assert written.name == f'vovnet-{digest[:8]}.pth'
    assert f'give/{written.name}' in run.stdout
    found = torch.load(written, weights_only=True)
    assert found.keys() == {'meta', 'state_dict'}
    assert found['meta'] == dict(epoch=1, dataset_meta=dict(classes=('a', )))
    assert same(found['state_dict'], weights)
    # What the weights assume is still beside them.
    assert found['state_dict']._metadata == weights._metadata
    run_tool(tmp_path, PUBLISH, path, 'give/vovnet.pth')
    assert len(list((tmp_path / 'give').iterdir())) == 1  # the same bytes


def test_published_whole_or_not_at_all(trained, run_tool, tmp_path):
    path, _ = trained
    size = path.stat().st_size
    run = run_tool(tmp_path, PUBLISH, path, 'give/v.pth',
                   LARGEST_FILE=str(size // 2))
    error_line(run, 'give/v-', 'make room')
    assert list((tmp_path / 'give').iterdir()) == []
    torch.save(dict(epoch=1), tmp_path / 'empty.pth')
    error_line(run_tool(tmp_path, PUBLISH, 'empty.pth', 'v.pth'),
               'empty.pth', 'no weights')


@pytest.fixture
def shop(tmp_path):
    """A server of files, and a model index that names them."""
    (tmp_path / 'shop').mkdir()
    (tmp_path / 'zoo').mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler,
                                directory=tmp_path / 'shop')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(
        target=server.serve_forever, args=(0.01, ), daemon=True).start()
    torch.save(dict(w=torch.ones(99)), tmp_path / 'shop/w.pth')
    digest = hashlib.sha256((tmp_path / 'shop/w.pth').read_bytes())
    (tmp_path / 'model-index.yml').write_text('Import: [zoo/metafile.yml]\n')
    (tmp_path / 'zoo/metafile.yml').write_text(f'''
Models:
  - Name: mine
    Weights: http://127.0.0.1:{server.server_port}/w.pth
    Metadata: {{SHA256: {digest.hexdigest()}, License: MIT}}
  - Name: untrained
''')
    yield tmp_path / 'shop/w.pth'
    server.shutdown()


def test_download_by_name(shop, run_tool, tmp_path):
    args = ['--index', 'model-index.yml', '--out-dir', 'here']
    env = dict(TORCH_HOME=str(tmp_path / 'home'))
    run = run_tool(tmp_path, DOWNLOAD, 'mine', *args, **env)
    assert run.returncode == 0, run.stderr
    path = tmp_path / run.stdout.splitlines()[0]
    assert path.parent.name == 'here'
    assert path.read_bytes() == shop.read_bytes()
    assert 'license: MIT' in run.stdout
    # The file is swapped on the server: neither it nor the old one stays.
    path.write_bytes(b'spoilt')
    shop.write_bytes(shop.read_bytes() + b'x')
    error_line(run_tool(tmp_path, DOWNLOAD, 'mine', *args, **env), 'w.pth',
               'is not the file that was published', 'removed from the cache')
    assert [p.suffix for p in (tmp_path / 'here').iterdir()] == ['.lock']


def test_names_of_weights(shop, run_tool, tmp_path):
    run = run_tool(tmp_path, DOWNLOAD, '--list', '--index', 'model-index.yml')
    names = [line.split('  ')[0] for line in run.stdout.splitlines()]
    assert 'timm/ese_vovnet39b.ra_in1k' in names and 'mine' in names
    assert 'untrained' not in names
    error_line(run_tool(tmp_path, DOWNLOAD, 'timm/ese_vovnet39'),
               'timm/ese_vovnet39: no weights of this name',
               'timm/ese_vovnet39b.ra_in1k', '--list')
    (tmp_path / 'zoo/metafile.yml').write_text('Models: [')
    error_line(run_tool(tmp_path, DOWNLOAD, 'mine', '--index',
                        'model-index.yml'), 'zoo/metafile.yml')
    assert run_tool(tmp_path, DOWNLOAD).returncode == 2
