"""vovnet.deploy.optimize.apply: the same outputs from fewer and other operators."""
import copy

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import densenet121, resnet18

from vovnet.deploy.optimize import apply as deploy
from vovnet.deploy.optimize import modes
from vovnet.deploy.optimize.apply import difference, fastest, optimize
from vovnet.deploy.optimize.folding import (
    OneDNNConv2d,
    fold_norms,
    fuse_convolutions,
)
from vovnet.deploy.optimize.modes import MODES
from vovnet.engine.build import build_network
from vovnet.engine.config import load_config
from vovnet.utils.dummy_forward import create_placeholder_samples, run_network
from vovnet.utils.errors import UserError

TINY = dict(num_blocks=(1, 1, 2, 1), num_layers=2, stem_channels=(8, 8, 16),
            stage_channels=(8, 16, 16, 16),
            aggregated_channels=(16, 24, 32, 32))
IMAGES = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def settle(model):
    """Norms with statistics, scales and shifts as after a training."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            for tensor, low, high in (
                    (module.running_mean, -.3, .3), (module.weight, .5, 1.5),
                    (module.running_var, .5, 2.), (module.bias, -.3, .3)):
                tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


def norms(model):
    return sum(isinstance(m, _BatchNorm) for m in model.modules())


def outputs(result):
    return [t for t in torch.utils._pytree.tree_leaves(result)
            if isinstance(t, torch.Tensor)]


def assert_close(found, expected, tolerance):
    found, expected = outputs(found), outputs(expected)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected):
        assert (a.float() - b).abs().max() <= tolerance * b.abs().max()


def backbone(**options):
    torch.manual_seed(0)
    return settle(MODELS.build(dict(dict(type='VoVNet', arch=TINY),
                                    **options)))


def detector(config, **model):
    cfg = load_config(config, {f'model.{k}': v for k, v in model.items()})
    torch.manual_seed(0)
    return settle(build_network(cfg))


ARCHS = {
    'V1 slim': dict(arch='V1-27-slim'),
    'V2, eSE': dict(stem='strided', residual=True, ese='all'),
    'depthwise': dict(arch=dict(TINY, depthwise=True), ese='last'),
    'bottleneck': dict(bottleneck=True),
}


@pytest.mark.parametrize('name', ARCHS)
def test_backbones_equal_the_plain_ones(name, any_bf16):
    plain = backbone(**ARCHS[name])
    before = copy.deepcopy(plain.state_dict())
    with torch.no_grad():
        expected = plain(IMAGES)
        fast, low = optimize(plain), optimize(plain, 'bf16', IMAGES)
        assert norms(fast) == norms(low) == 0
        assert_close(fast(IMAGES), expected, 1e-4)
        assert {t.dtype for t in low(IMAGES)} == {torch.bfloat16}
        # 8 bits of mantissa: each of up to 30 roundings adds 2^-9.
        assert_close(low(IMAGES), expected, 0.06)
        assert all(map(torch.equal, plain(IMAGES), expected))
    after = plain.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(m.is_contiguous(memory_format=torch.channels_last)
               for m in fast(IMAGES))



@pytest.mark.parametrize('name', ARCHS)
def test_backbones_are_one_graph(name):
    model = backbone(**ARCHS[name])
    fold_norms(model, lambda: model(IMAGES))
    torch._dynamo.reset()
    with torch.no_grad():
        found = torch._dynamo.explain(model)(IMAGES)
    assert (found.graph_count, found.graph_break_count) == (1, 0)


# Configs, and the norms that no convolution stands before.
DETECTORS = {
    'RetinaNet': ('configs/demo/retinanet_vovnet-27-slim_fpn_shapes.py', 0),
    'FCOS, GN in the head': (
        'configs/fcos/fcos_vovnetv2-39_fpn_gn-head_d2-3x_coco.py', 0),
    'two stages': ('configs/demo/mask-rcnn_vovnet-27-slim_fpn_shapes.py', 0),
    # Each level has norms of its own on the convolutions of all.
    'RTMDet': ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 0),
}


def build(name):
    torch.manual_seed(0)
    config, left = DETECTORS[name]
    model = build_network(load_config(config))
    return settle(model), left


@pytest.mark.parametrize('name', DETECTORS)
def test_detectors_equal_the_plain_ones(name, any_bf16):
    plain, left = build(name)
    groups = sum(isinstance(m, nn.GroupNorm) for m in plain.modules())
    images = IMAGES[:1]
    with torch.no_grad():
        expected = run_network(plain, images)
        fast, low = optimize(plain, 'fold', images), optimize(plain, 'bf16')
        assert norms(plain) > norms(fast) == left
        assert groups == sum(
            isinstance(m, nn.GroupNorm) for m in fast.modules())
        assert_close(run_network(fast, images), expected, 1e-4)
        found = run_network(low, images)
        assert_close(found, expected, 0.1)
        # Heads give single precision, from which boxes are decoded.
        assert {t.dtype for t in outputs(found)} == {torch.float32}
        for one in (plain, fast):
            [result] = one(images, create_placeholder_samples(images), mode='predict')
            boxes = result.pred_instances.bboxes
            assert boxes.dtype == torch.float32
            if one is plain:
                wanted = boxes
        assert boxes.shape == wanted.shape
        torch.testing.assert_close(boxes, wanted, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize(('name', 'mode'), [
    ('RetinaNet', 'compile'), ('two stages', 'bf16-compile')])
def test_what_is_compiled(name, mode, monkeypatch, any_bf16):
    """Backbone, neck and dense head, the backbone without breaks."""
    asked = []

    def compile(function, fullgraph, mode):
        asked.append((type(function.__self__).__name__, fullgraph))
        return real(function, fullgraph=fullgraph, backend='eager')

    real = torch.compile
    monkeypatch.setattr(torch, 'compile', compile)
    monkeypatch.setattr(modes, '_no_compiler', lambda cuda: None)
    torch._dynamo.reset()
    plain, _ = build(name)
    fast = optimize(plain, mode, IMAGES[:1])
    head = type(getattr(plain, 'bbox_head', None) or plain.rpn_head).__name__
    assert asked == [('VoVNet', True), ('FPN', False), (head, False)]
    with torch.no_grad():
        assert_close(run_network(fast, IMAGES[:1]),
                     run_network(plain, IMAGES[:1]),
                     1e-4 if mode == 'compile' else 0.1)


@pytest.mark.parametrize('mode', ['compile', 'fp16-compile'])
def test_one_step_of_cuda_graphs_for_all_parts(mode, monkeypatch):
    """Each compiled part would else give back what the one before gave."""
    calls = []

    def compile(forward, **options):
        name = type(forward.__self__).__name__
        return lambda *args: (calls.append(name), forward(*args))[1]

    monkeypatch.setattr(torch, 'compile', compile)
    monkeypatch.setattr(torch.compiler, 'cudagraph_mark_step_begin',
                        lambda: calls.append('step'))
    alone, (whole, _) = backbone(), build('RetinaNet')
    for model in (alone, whole):
        # Its autocast does nothing to what is on the CPU.
        deploy._speed_up(model, MODES[mode], torch.device('cuda'))
    with torch.no_grad():
        for _ in range(2):
            run_network(whole, IMAGES)
        assert calls == ['step', 'VoVNet', 'FPN', type(
            whole.bbox_head).__name__] * 2
        calls.clear()
        alone(IMAGES)
    assert calls == ['step', 'VoVNet']


@pytest.mark.slow
@pytest.mark.skipif(bool(modes._no_compiler(cuda=False)),
                    reason='torch.compile needs a C++ compiler')
def test_really_compiled():
    tiny = dict(num_blocks=(1, ), num_layers=1, stem_channels=(8, 8, 8),
                stage_channels=(8, ), aggregated_channels=(16, ))
    plain = backbone(arch=tiny, ese='last')
    torch._dynamo.reset()
    with inductor_config.patch(force_disable_caches=True):
        counters.clear()
        fast = optimize(plain, 'compile', IMAGES)
    with torch.no_grad():
        assert_close(fast(IMAGES), plain(IMAGES), 1e-4)
    # Only frozen weights are laid out for oneDNN beforehand: all of the 3
    # convolutions of the stem and the 3 of the block.
    assert counters['inductor']['mkldnn_conv_weight_pack_matcher_count'] == 6


class Two(nn.Module):
    """Two convolutions and two norms, wired as a test wants it."""

    def __init__(self, wire):
        super().__init__()
        self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.m, self.n = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.wire = wire

    def forward(self, x):
        return self.wire(self, x)


@pytest.mark.parametrize(('wire', 'folded'), [
    (lambda s, x: s.n(s.b(s.m(s.a(x)))), 2),
    (lambda s, x: s.m(s.a(x)) + s.n(s.b(x)).relu_(), 2),
    (lambda s, x: s.m(s.a(s.m(s.a(x)))), 1),  # twice, alike
    (lambda s, x: s.m(s.a(x)) + s.m(s.b(x)), 2),  # one norm behind two
    (lambda s, x: s.a(s.m(x)), 0),  # the other order
    (lambda s, x: s.m(s.a(x) + s.b(x)), 0),
    (lambda s, x: s.m(s.a(x).relu()), 0),
    (lambda s, x: s.m(y := s.a(x)) + y, 0),
    (lambda s, x: [y := s.a(x), s.m(y)], 0),
    (lambda s, x: s.m(s.a(x)) + s.n(s.a(x)), 0),  # two norms behind one
    (lambda s, x: s.m(y := s.a(x)) + s.n(y), 0),
    (lambda s, x: s.m(s.a(x)) + s.m(x) + s.n(s.b(x)), 1),
])
def test_only_what_may_be_folded_is(wire, folded):
    torch.manual_seed(0)
    model = settle(Two(wire))
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        expected = model(x)
        assert fold_norms(model, lambda: model(torch.zeros_like(x))) == folded
        assert_close(model(x), expected, 1e-5)


class Acts(nn.Module):
    """Two convolutions and two ReLUs, wired as a test wants it."""

    def __init__(self, wire):
        super().__init__()
        self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.r, self.i = nn.ReLU(), nn.ReLU(inplace=True)
        self.wire = wire

    def forward(self, x):
        return self.wire(self, x)


@pytest.mark.parametrize(('wire', 'fused'), [
    (lambda s, x: s.i(s.b(s.r(s.a(x)))), 2),
    (lambda s, x: s.r(s.a(x)) * s.i(s.b(x)), 2),
    (lambda s, x: s.i(y := s.a(x)) + y * 2, 1),  # in place: y is the result
    (lambda s, x: s.r(y := s.a(x)) + y, 0),
    (lambda s, x: s.i((y := s.a(x)) + 0) + y, 0),
    (lambda s, x: s.r(s.a(x)) + s.r(s.b(x)), 2),
    (lambda s, x: s.r(s.r(s.a(x)) - s.b(x)), 0),
    (lambda s, x: s.i(s.a(x) + x), 0),
    (lambda s, x: s.b(s.a(x)).relu(), 0),
])
def test_only_what_may_be_fused_is(wire, fused):
    torch.manual_seed(0)
    model = Acts(wire).eval()
    x = torch.randn(2, 4, 5, 5)
    small = x[:1, :, :3]  # not the size that the weights are laid out for
    with torch.no_grad():
        expected = model(x), model(small)
        assert fuse_convolutions(model, lambda: model(x + 0)) == fused
        assert isinstance(model.a, OneDNNConv2d)
        assert_close((model(x), model(small)), expected, 1e-5)


@pytest.mark.parametrize('options', [
    dict(stride=2, padding=1), dict(groups=4), dict(dilation=2, bias=False),
    dict(padding=(0, 1))])
def test_onednns_convolution(options):
    conv = nn.Conv2d(4, 8, 3, **options)
    x = torch.randn(2, 4, 9, 7)
    with torch.no_grad():
        assert_close(OneDNNConv2d(conv, False)(x), conv(x), 1e-5)
        assert_close(OneDNNConv2d(conv, True)(x), conv(x).relu(), 1e-5)


@pytest.mark.parametrize('options', [
    dict(padding_mode='reflect', padding=1), dict(padding='same')])
def test_other_convolutions_are_left_to_torch(options):
    model = nn.Sequential(nn.Conv2d(3, 3, 3, **options), nn.ReLU()).eval()
    assert fuse_convolutions(model, lambda: model(IMAGES)) == 0
    assert type(model[0]) is nn.Conv2d


def test_places_with_the_same_convolution():
    """Each gets its own, where each has its own norm."""
    conv = nn.Conv2d(3, 3, 1)
    model = settle(nn.ModuleList(
        nn.Sequential(conv, nn.BatchNorm2d(3)) for _ in range(3)))
    run = lambda x: [part(x) for part in model]
    with torch.no_grad():
        expected = run(IMAGES)
        assert fold_norms(model, lambda: run(IMAGES)) == 3
        assert_close(run(IMAGES), expected, 1e-5)


@pytest.mark.parametrize('norm', [
    nn.BatchNorm2d(3, track_running_stats=False),
    nn.InstanceNorm2d(3), nn.GroupNorm(1, 3)])
def test_other_norms_stay(norm):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), norm).eval()
    assert fold_norms(model, lambda: model(IMAGES)) == 0


def test_a_computed_weight_stays():
    conv = nn.utils.spectral_norm(nn.Conv2d(3, 3, 1))
    model = settle(nn.Sequential(conv, nn.BatchNorm2d(3)))
    assert fold_norms(model, lambda: model(IMAGES)) == 0


@pytest.mark.parametrize(('network', 'left'), [
    (resnet18, 0),
    # Pre-activated: of each of 58 layers the first norm reads a
    # concatenation, as do those of 3 transitions and the last.
    (densenet121, 62)])
def test_torchvisions_networks(network, left):
    torch.manual_seed(0)
    plain = settle(network())
    fast = optimize(plain)
    assert norms(fast) == left
    with torch.no_grad():
        assert_close(fast(IMAGES), plain(IMAGES), 1e-4)


def test_timms_norms_keep_their_activation():
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    plain = settle(timm.create_model('ese_vovnet19b_slim_dw',
                                     features_only=True))
    fast = optimize(plain)
    assert norms(fast) == 0
    with torch.no_grad():
        assert_close(fast(IMAGES), plain(IMAGES), 1e-4)


def test_the_fastest_mode(monkeypatch):
    monkeypatch.setattr(deploy, 'MODES', {
        name: mode for name, mode in deploy.MODES.items()
        if name in ('eager', 'fold', 'fp16')})
    plain, lines = backbone(arch='V1-27-slim'), []
    fast, trials = fastest(plain, IMAGES, lines.append)
    assert [line.partition(':')[0] for line in lines] == [
        'eager', 'fold', 'fp16']
    assert 'not tried, needs a GPU' in lines[2]
    assert sorted(t.mode for t in trials) == ['eager', 'fold']
    assert trials[0].seconds <= trials[1].seconds
    assert bool(norms(fast)) == (trials[0].mode == 'eager')
    apart = {trial.mode: trial.difference for trial in trials}
    assert apart['eager'] == 0 < apart['fold'] < 1e-4


def test_difference():
    a = [torch.tensor([1., -4.]), (torch.tensor([2.]), )]
    b = [torch.tensor([1.5, -4.]), (torch.tensor([2.1]), )]
    assert difference(b, a) == pytest.approx(0.5 / 4)
    with pytest.raises(ValueError, match='argument 2 is longer'):
        difference(b[:1], a)


def test_of_another_precision():
    model = backbone().double()
    fast = optimize(model)
    images = IMAGES.double()
    assert difference(fast(images), model(images)) < 1e-12


def test_nothing_to_fold():
    with pytest.raises(UserError, match='Linear has no convolution'):
        optimize(nn.Linear(3, 3).eval())


@pytest.mark.parametrize(('change', 'mode', 'said'), [
    (nn.Module.train, 'fold', 'is in training mode; call its eval'),
    (lambda m: m.stem.train(), 'fold', 'is in training mode'),
    (lambda m: None, 'openvino', 'is another runtime'),
    (lambda m: None, 'fp16', 'needs a GPU'),
    (lambda m: None, 'quick', 'is none of eager, fold'),
])
def test_mistakes(change, mode, said):
    model = backbone()
    change(model)
    with pytest.raises(UserError, match=said) as error:
        optimize(model, mode)
    assert '\n' not in str(error.value)


def test_optimised_twice(any_bf16):
    with pytest.raises(UserError, match='is optimised already'):
        optimize(optimize(backbone(), 'bf16'))


def test_a_mode_that_a_model_cannot_run_in(any_bf16):
    class Strict(nn.Module):
        """Multiplies in single precision only."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv.weight.view(-1).dot(torch.ones(9))

    with pytest.raises(UserError, match='mode bf16: Strict cannot run in it'):
        optimize(Strict().eval(), 'bf16', IMAGES)
