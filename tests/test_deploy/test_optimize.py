"""vovnet.deploy.optimize: equal outputs from fewer and faster operators."""
import copy
import functools
import re

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import densenet121, resnet18

from vovnet.deploy.optimize import apply, modes, optimize
from vovnet.deploy.optimize.apply import (
    compute_difference,
    find_fastest_mode,
)
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


ARCHS = {
    'V1': dict(),
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


# Configs, and options that make them small.
DETECTORS = {
    'RetinaNet': ('configs/demo/retinanet_vovnet-27-slim_fpn_shapes.py', {}),
    'FCOS, GN in the head': (
        'configs/fcos/fcos_vovnetv2-39_fpn_gn-head_d2-3x_coco.py', {
            'model.backbone.arch': 'V2-19-slim',
            'model.neck.in_channels': [256, 384, 512],
            'model.neck.out_channels': 64,
            'model.bbox_head.in_channels': 64,
            'model.bbox_head.feat_channels': 64}),
    'two stages': ('configs/demo/mask-rcnn_vovnet-27-slim_fpn_shapes.py',
                   {'model.test_cfg.rpn.max_per_img': 20}),
    # Its levels share convolutions, but not the norms.
    'RTMDet': ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', {}),
}


@functools.cache
def build(name):
    """Build a detector that tests leave as it is."""
    torch.manual_seed(0)
    return settle(build_network(load_config(*DETECTORS[name])))


@pytest.mark.parametrize('name', DETECTORS)
def test_detectors_equal_the_plain_ones(name, any_bf16):
    plain = build(name)
    groups = sum(isinstance(m, nn.GroupNorm) for m in plain.modules())
    images = IMAGES[:1]
    with torch.no_grad():
        expected = run_network(plain, images)
        fast, low = optimize(plain, 'fold', images), optimize(plain, 'bf16')
        assert norms(plain) > norms(fast) == 0
        assert groups == sum(
            isinstance(m, nn.GroupNorm) for m in fast.modules())
        assert_close(run_network(fast, images), expected, 1e-4)
        found = run_network(low, images)
        assert_close(found, expected, 0.1)
        # Heads give single precision, from which boxes are decoded.
        assert {t.dtype for t in outputs(found)} == {torch.float32}
        boxes = []
        for one in (plain, fast):
            [result] = one(images, create_placeholder_samples(images),
                           mode='predict')
            boxes.append(result.pred_instances.bboxes)
        assert boxes[0].dtype == torch.float32
        torch.testing.assert_close(*boxes, rtol=1e-3, atol=0.05)


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
    monkeypatch.setattr(modes, '_find_missing_compiler', lambda cuda: None)
    torch._dynamo.reset()
    plain = build(name)
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
    alone, whole = backbone(), copy.deepcopy(build('RetinaNet'))
    for model in (alone, whole):
        # Its autocast does nothing to what is on the CPU.
        apply._wrap_parts(model, MODES[mode], torch.device('cuda'))
    with torch.no_grad():
        for _ in range(2):
            run_network(whole, IMAGES)
        assert calls == ['step', 'VoVNet', 'FPN', type(
            whole.bbox_head).__name__] * 2
        calls.clear()
        alone(IMAGES)
    assert calls == ['step', 'VoVNet']


@pytest.mark.slow
@pytest.mark.skipif(bool(modes._find_missing_compiler(cuda=False)),
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


class Wired(nn.Module):
    """Two convolutions, norms and ReLUs, wired as a test wants it."""

    def __init__(self, wire):
        super().__init__()
        self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.m, self.n = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.r, self.i = nn.ReLU(), nn.ReLU(inplace=True)
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
    model = settle(Wired(wire))
    x = torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        expected = model(x)
        assert fold_norms(model, lambda: model(torch.zeros_like(x))) == folded
        assert_close(model(x), expected, 1e-5)


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
    model = Wired(wire).eval()
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


def create_timm_vovnet():
    """Create a network whose norms contain the activation."""
    return pytest.importorskip('timm').create_model(
        'ese_vovnet19b_slim_dw', features_only=True)


@pytest.mark.parametrize(('create', 'left'), [
    (create_timm_vovnet, 0),
    (resnet18, 0),
    # Pre-activated: of each of 58 layers the first norm reads a
    # concatenation, as do those of 3 transitions and the last.
    (densenet121, 62)])
def test_networks_of_other_libraries(create, left):
    torch.manual_seed(0)
    plain = settle(create())
    fast = optimize(plain, images=IMAGES)
    assert norms(fast) == left
    with torch.no_grad():
        assert_close(fast(IMAGES), plain(IMAGES), 1e-4)


def test_the_fastest_mode(monkeypatch):
    monkeypatch.setattr(apply, 'MODES', {
        name: MODES[name] for name in ('eager', 'fold', 'fp16')})
    plain, lines, found = backbone(), [], {}
    name, fast = find_fastest_mode(plain, IMAGES, lines.append)
    assert lines.pop() == 'fp16: not tried, needs a GPU; use bf16 on a CPU'
    for line in lines:
        mode, *numbers = re.fullmatch(
            r'(\w+): (\S+) ms, outputs within (\S+)', line).groups()
        found[mode] = [float(number) for number in numbers]
    assert list(found) == ['eager', 'fold']
    assert found[name][0] == min(found['eager'][0], found['fold'][0])
    assert bool(norms(fast)) == (name == 'eager')
    assert found['eager'][1] == 0 < found['fold'][1] < 1e-4


def test_difference():
    a = [torch.tensor([1., -4.]), (torch.tensor([2.]), )]
    b = [torch.tensor([1.5, -4.]), (torch.tensor([2.1]), )]
    assert compute_difference(b, a) == pytest.approx(0.5 / 4)
    with pytest.raises(ValueError, match='argument 2 is longer'):
        compute_difference(b[:1], a)


def test_of_another_precision():
    model = backbone().double()
    fast = optimize(model)
    images = IMAGES.double()
    assert compute_difference(fast(images), model(images)) < 1e-12


def test_nothing_to_fold():
    with pytest.raises(UserError, match='Linear has no convolution'):
        optimize(nn.Linear(3, 3).eval())


@pytest.mark.parametrize(('change', 'mode', 'said'), [
    (nn.Module.train, 'fold', 'is in training mode; call its eval'),
    (lambda m: m.stem.train(), 'fold', 'is in training mode'),
    (lambda m: None, 'openvino', 'runs in another runtime'),
    (lambda m: None, 'fp16', 'needs a GPU'),
    (lambda m: None, 'quick', "unknown mode 'quick'; choose from eager, fold"),
])
def test_mistakes(change, mode, said):
    model = backbone()
    change(model)
    with pytest.raises(UserError, match=said) as error:
        optimize(model, mode)
    assert '\n' not in str(error.value)


def test_optimized_twice(any_bf16):
    with pytest.raises(UserError, match='is already optimized'):
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
