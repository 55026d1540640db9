"""Converted weights compute what the library that published them computes."""
import foreign
import pytest
import timm
import torch
from foreign import NETS, assert_close
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from vovnet.checkpoints import export_weights, read_weights
from vovnet.models import VoVNet


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def memory():
    """Files that exist in memory only: a scheme of MMEngine's loader."""
    files = {}
    CheckpointLoader.register_scheme(
        'memory:', lambda name, map_location: files[name])
    yield files
    del CheckpointLoader._schemes['memory:']


@pytest.fixture
def empty(monkeypatch):
    """Backbones are born with arbitrary weights, which takes no time."""
    monkeypatch.setattr(nn.Conv2d, 'reset_parameters', lambda self: None)


def build(source, **options):
    """A backbone that has loaded the file, as a config does it."""
    model = VoVNet(**options, init_cfg=dict(
        type='Pretrained', checkpoint=source))
    model.init_weights()
    return model.eval()


def check(state, reference, memory, scheme, *options, prefix=''):
    """Load, compare the outputs, and translate back."""
    memory['memory:a.pth'] = state
    x = torch.randn(1, 3, 43, 32)
    with torch.inference_mode():
        want = reference(x)
        for each in options:
            assert_close(build('memory:a.pth', **each)(x), want)
    weights = read_weights('memory:a.pth')
    assert (weights.scheme, weights.prefix) == (scheme, prefix)
    back = export_weights(weights, scheme, prefix)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)
    return weights


@pytest.mark.parametrize('name, arch, options', [
    ('ese_vovnet19b_dw', 'V2-19-dw', [{}]),
    ('ese_vovnet19b_slim', 'V2-19-slim', [{}]),
    ('ese_vovnet19b_slim_dw', 'V2-19-slim-dw', [{}]),
    ('ese_vovnet19b', 'V2-19', [{}]),
    # The authors' network takes them too: missing gates are open.
    ('ese_vovnet39b', 'V2-39', [dict(ese='last'), {}]),
    ('ese_vovnet57b', 'V2-57', [dict(ese='last'), {}]),
    ('ese_vovnet99b', 'V2-99', [dict(ese='last'), {}]),
    ('vovnet39a', 'V1-39', [dict(stem='strided')]),
    ('vovnet57a', 'V1-57', [dict(stem='strided')]),
])
def test_timm(name, arch, options, memory):
    # Built from its table: timm registers no entry for the plain 19b.
    theirs = timm.models.vovnet.VovNet(
        timm.models.vovnet.model_cfgs[name], num_classes=5).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    weights = check(
        theirs.state_dict(), lambda x: theirs.forward_intermediates(
            x, indices=4, intermediates_only=True), memory, 'timm',
        *(dict(arch=arch, **each) for each in options))
    assert weights.arch == arch


@pytest.mark.parametrize('net, arch, library', [
    *((n, f'V1-{n}', foreign.AUTHORS_V1)
      for n in ('27-slim', '39', '57', '75', '93')),
    *((n, f'V2-{n}', foreign.AUTHORS) for n in (
        '19-slim-dw', '19-dw', '19-slim', '19', '39', '57', '99')),
])
def test_authors(net, arch, library, memory, empty):
    v1 = arch.startswith('V1')
    # V1 has a classifier and counters; detectron2's frozen norms have none.
    state = foreign.random_weights(
        NETS[net], library, counters=v1, classes=5 * v1)
    prefix = '' if v1 else 'backbone.bottom_up.'
    options = dict(stem='strided', residual=True) if v1 else {}
    weights = check(
        {prefix + k: v for k, v in state.items()},
        lambda x: foreign.evaluate(state, NETS[net], library, x),
        memory, 'authors', dict(options, arch=arch), prefix=prefix)
    assert weights.arch == arch


@pytest.mark.parametrize('net', ['27-slim', '39', '57'])
def test_pytorchcv(net, memory, empty):
    library = foreign.PYTORCHCV
    state = foreign.random_weights(NETS[net], library, classes=5)
    check(state, lambda x: foreign.evaluate(state, NETS[net], library, x),
          memory, 'pytorchcv',
          dict(arch=f'V1-{net}', stem='strided', residual=True))


VT = dict(stem='pooled', residual='same-width', pool='padded')


@pytest.mark.parametrize('net, options, library', [
    *((n, dict(arch=f'V1-{n}'), foreign.VISION_TOOLBOX_V1)
      for n in ('27-slim', '39', '57')),
    ('27-slim', dict(arch='V1-27-slim'),
     foreign.VISION_TOOLBOX_V1._replace(norm='bn')),  # the files of 2022
    ('19-slim-128', dict(arch=dict(
        num_blocks=(1, 1, 1, 1), num_layers=3,
        stage_channels=(64, 80, 96, 112),
        aggregated_channels=(128, 256, 384, 512)), ese='all'),
     foreign.VISION_TOOLBOX),
    *((n, dict(arch=f'V2-{n}'), foreign.VISION_TOOLBOX)
      for n in ('19', '39', '57', '99')),
])
def test_vision_toolbox(net, options, library, memory, empty):
    state = foreign.random_weights(NETS[net], library)
    scheme = 'vision-toolbox' + '-2022' * (library.norm == 'bn')
    check(state, lambda x: foreign.evaluate(state, NETS[net], library, x),
          memory, scheme, dict(VT, **options))
