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
from tool_runs import ROOT, check_error_line, hashes

from vovnet.checkpoints import load_file
from vovnet.checkpoints.download import get_cache_name
from vovnet.models import VoVNet

sys.path.insert(0, str(ROOT / 'tests/test_checkpoints'))
import detectron2_reference as d2
import foreign
from foreign import NETS

CONVERT = 'tools/model_converters/vovnet_to_mmengine.py'
CONVERT_DETECTOR = 'tools/model_converters/detectron2_to_mmdet.py'
DETECTOR = ('configs/faster_rcnn/'
            'faster-rcnn_vovnetv2-19-slim-dw_fpnlite_d2-3x_coco.py')
PUBLISH = 'tools/model_converters/publish_model.py'
DOWNLOAD = 'tools/misc/download_weights.py'


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
        check_error_line(run_tool(tmp_path, CONVERT, 'd2.pth', *back[1:]),
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
    for tool, args, *parts in (
            (CONVERT, ['a.pth', 'b.pth', '--to', 'timm'], 'a.pth',
             'last block'),
            (CONVERT, ['resnet.pth', 'b.pth'], 'resnet.pth',
             'looks like a ResNet'),
            (CONVERT, ['page.pth', 'b.pth'], 'page.pth', 'web page'),
            (CONVERT, ['half.pth', 'b.pth'], 'half.pth', 'cut short'),
            (CONVERT, ['no.pth', 'b.pth'], 'no.pth', 'no such file'),
            (CONVERT, ['a.pth', '.'], '.: is a folder'),
            (CONVERT_DETECTOR, ['resnet.pth', DETECTOR, 'b.pth'],
             'resnet.pth', 'holds no detector of detectron2'),
            (CONVERT_DETECTOR, ['page.pth', DETECTOR, 'b.pth'], 'page.pth',
             'web page'),
            (CONVERT_DETECTOR, ['d2.pth', 'configs/no.py', 'b.pth'],
             'configs/no.py')):
        check_error_line(run_tool(tmp_path, tool, *args), *parts)
    after = hashes(tmp_path)
    assert {k: after.get(k) for k in before} == before
    assert not list(tmp_path.glob('*b.pth*'))


def test_detector_of_detectron2(run_tool, tmp_path):
    state = d2.random_detector('faster')
    torch.save(dict(model=state, iteration=269999), tmp_path / 'd2.pth')
    run = run_tool(
        tmp_path, CONVERT_DETECTOR, 'd2.pth', DETECTOR, 'out/ours.pth')
    assert run.returncode == 0, run.stderr
    # 8 in FPN's laterals, 8 in its outputs, 6 in RPN, 8 in the box head.
    assert ("tensors of the backbone, 30 of neck and heads, 7 constants as in "
            'the config\n') in run.stdout
    assert "arch='V2-19-slim-dw'" in run.stdout
    assert f'tools/test.py {DETECTOR} out/ours.pth' in run.stdout
    weights = load_file(tmp_path / 'out/ours.pth')['state_dict']
    assert torch.equal(weights['roi_head.bbox_head.fc_cls.weight'],
                       state['roi_heads.box_predictor.cls_score.weight'])


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
    check_error_line(run, 'give/v-', 'make room')
    assert list((tmp_path / 'give').iterdir()) == []
    torch.save(dict(epoch=1), tmp_path / 'empty.pth')
    check_error_line(run_tool(tmp_path, PUBLISH, 'empty.pth', 'v.pth'),
                     'empty.pth', 'no weights')


@pytest.fixture
def serve():
    """Starts servers on this machine and stops them in the end."""
    servers = []

    def start(handler):
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        threading.Thread(
            target=server.serve_forever, args=(0.01, ), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


THEIRS = 'http://127.0.0.1:9/d2.pth'


@pytest.fixture
def shop(tmp_path, serve):
    """A server of files, and a model index that names them."""
    (tmp_path / 'shop').mkdir()
    (tmp_path / 'zoo').mkdir()
    server = serve(functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=tmp_path / 'shop'))
    torch.save(dict(w=torch.ones(99)), tmp_path / 'shop/w.pth')
    digest = hashlib.sha256((tmp_path / 'shop/w.pth').read_bytes())
    (tmp_path / 'model-index.yml').write_text('Import: [zoo/metafile.yml]\n')
    (tmp_path / 'zoo/metafile.yml').write_text(f'''
Models:
  - Name: mine
    Weights: http://127.0.0.1:{server.server_port}/w.pth
    Metadata: {{SHA256: {digest.hexdigest()}, License: MIT}}
  - Name: untrained
  - {{Name: theirs, Config: configs/x.py, Weights: '{THEIRS}',
     Metadata: {{License: MIT, Weights Format: detectron2}}}}
''')
    return tmp_path / 'shop/w.pth'


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
    check_error_line(
        run_tool(tmp_path, DOWNLOAD, 'mine', *args, **env), 'w.pth',
        'is not the file that was published', 'removed from the cache')
    assert [p.suffix for p in (tmp_path / 'here').iterdir()] == ['.lock']


def test_downloaded_detector_says_what_is_next(shop, run_tool, tmp_path):
    """A file that is in the cache already; nothing is fetched."""
    torch.save(dict(w=torch.ones(1)), tmp_path / get_cache_name(THEIRS))
    run = run_tool(tmp_path, DOWNLOAD, 'theirs', '--index', 'model-index.yml',
                   '--out-dir', '.')
    assert run.returncode == 0, run.stderr
    path, use = run.stdout.splitlines()
    assert use == (f'license: MIT; next: python {CONVERT_DETECTOR} {path} '
                   'configs/x.py DST.pth')


def test_names_of_weights(shop, run_tool, tmp_path):
    run = run_tool(tmp_path, DOWNLOAD, '--list', '--index', 'model-index.yml')
    names = [line.split('  ')[0] for line in run.stdout.splitlines()]
    assert 'timm/ese_vovnet39b.ra_in1k' in names and 'mine' in names
    assert 'untrained' not in names
    check_error_line(run_tool(tmp_path, DOWNLOAD, 'timm/ese_vovnet39'),
                     'timm/ese_vovnet39: no weights of this name',
                     'timm/ese_vovnet39b.ra_in1k', '--list')
    (tmp_path / 'zoo/metafile.yml').write_text('Models: [')
    check_error_line(run_tool(tmp_path, DOWNLOAD, 'mine', '--index',
                              'model-index.yml'), 'zoo/metafile.yml')
    assert run_tool(tmp_path, DOWNLOAD).returncode == 2


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of huggingface_hub's server as a download needs."""

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


@pytest.fixture
def run_script(run_tool, tmp_path):
    """Runs code in a process that has not imported huggingface_hub."""

    def run(code, port, *args):
        (tmp_path / 'script.py').write_text(code)
        return run_tool(
            tmp_path, tmp_path / 'script.py', *args, NO_PROXY='*',
            HF_HOME=str(tmp_path / 'home'),
            HF_ENDPOINT=f'http://127.0.0.1:{port}')

    return run


EVALUATE = """
import sys, torch, vovnet
from mmengine.registry import MODELS
model = MODELS.build(dict(type='VoVNet', arch='V2-19-slim-dw', init_cfg=dict(
    type='Pretrained', checkpoint='timm://any.tag')))
model.init_weights()
torch.save(model.eval()(torch.ones(1, 3, 64, 64)), sys.argv[1])
"""


def test_timm_name_is_downloaded_then_served_offline(
        serve, run_script, tmp_path):
    """With ``HF_HOME`` as the user sets it.

    The repository has the older format only, as some of timm's have.
    """
    net = NETS['19-slim-dw']
    state = foreign.random_weights(net, foreign.TIMM)
    torch.save(state, tmp_path / 'w')
    server = serve(Hub)
    server.files = {'/timm/any.tag/resolve/main/pytorch_model.bin':
                    (tmp_path / 'w').read_bytes()}
    with torch.inference_mode():
        want = foreign.evaluate(
            state, net, foreign.TIMM, torch.ones(1, 3, 64, 64))
    for name in ('online', 'offline'):
        run = run_script(EVALUATE, server.server_port, name)
        assert run.returncode == 0, run.stderr
        for a, b in zip(torch.load(tmp_path / name), want, strict=True):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()
        server.files.clear()


ALONE = """
import time, vovnet
from vovnet.utils.errors import report_user_errors
from mmengine.runner.checkpoint import CheckpointLoader
with report_user_errors():
    start = time.monotonic()
    try:
        CheckpointLoader.load_checkpoint('timm://ese_vovnet39b', 'cpu')
    finally:
        print(time.monotonic() - start)
"""


def test_no_network_is_one_line_at_once(run_script):
    """The hub itself would ask six times within 23 seconds, and log each."""
    run = run_script(ALONE, 9)
    check_error_line(
        run, 'error: checkpoint timm://ese_vovnet39b.ra_in1k: not in the '
        'cache and cannot be downloaded (', 'refused')
    assert float(run.stdout.splitlines()[-1]) < 5
