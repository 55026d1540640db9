"""VoVNet's ``with_cp`` against the plain network."""
import copy
import os
import pickle

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from vovnet.models import VoVNet
from vovnet.models.backbones.vovnet import OSABlock, describe_block
from vovnet.models.recompute import recompute

MODES = ('pointwise', 'block')
TINY = dict(num_blocks=(1, 2), num_layers=2, stage_channels=(8, 12),
            aggregated_channels=(16, 24), stem_channels=(8, 8, 12))
V1 = dict(arch=TINY)
V2 = dict(arch=TINY, stem='strided', residual=True, ese='all')


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(with_cp=False, **options):
    """The same network for the same options, with statistics that matter."""
    torch.manual_seed(1)
    model = VoVNet(**options, with_cp=with_cp)
    for module in model.modules():
        if getattr(module, 'running_mean', None) is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm,
                               nn.GroupNorm)) and module.weight is not None:
            nn.init.uniform_(module.weight, -0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.train()


def loss_of(outs):
    """Something whose gradient differs from pixel to pixel."""
    return sum((o * torch.linspace(-1, 1, o.numel()).view_as(o).to(o)).sum()
               for o in outs)


def state(model, *inputs):
    """Gradients and buffers."""
    grads = {n: p.grad for n, p in model.named_parameters()}
    grads.update(enumerate(x.grad for x in inputs))
    return grads, dict(model.named_buffers())


def step(model, x):
    """A training forward and backward: outputs, gradients, buffers."""
    outs = model(x)
    loss_of(outs).backward()
    return outs, *state(getattr(model, 'module', model), x)


def assert_same(want, got, tolerance=3e-5):
    """Outputs and buffers are equal, gradients but for rounding."""
    for a, b in zip(want[0], got[0], strict=True):
        assert torch.equal(a, b)
    assert_same_state(want[1:], got[1:], tolerance)


def assert_same_state(want, got, tolerance=3e-5):
    for name, a in want[0].items():
        b = got[0][name]
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype
            assert (a - b).abs().max() <= tolerance * a.abs().max(), name
    assert want[1].keys() == got[1].keys()
    for name, a in want[1].items():
        assert torch.equal(a, got[1][name]), name


CASES = {
    'V1': V1,
    'V2': V2,
    'ese_last': dict(V2, ese='last'),
    'residual_in_first': dict(arch=dict(TINY, aggregated_channels=(12, 24)),
                              residual='same-width'),
    'V2-39': dict(arch='V2-39'),
    'depthwise': dict(arch='V2-19-slim-dw'),
    'bottleneck': dict(V1, bottleneck=True),
    'one_output': dict(V2, out_indices=(1, )),
    'frozen_stem': dict(V2, frozen_stages=0),
    'frozen': dict(V2, frozen_stages=1),
    'norm_eval': dict(V2, norm_eval=True),
    'frozen_norm': dict(V2, norm_cfg=dict(type='BN', requires_grad=False)),
    'gn': dict(V2, norm_cfg=dict(type='GN', num_groups=4)),
    'in': dict(V2, norm_cfg=dict(type='IN')),
    'syncbn': dict(V2, norm_cfg=dict(type='SyncBN')),
    'syncbn_eval': dict(V2, norm_cfg=dict(type='SyncBN'), norm_eval=True),
    'no_norm': dict(V2, norm_cfg=None),
    'no_momentum': dict(V2, norm_cfg=dict(type='BN', momentum=None)),
    'no_affine': dict(V2, norm_cfg=dict(type='BN', affine=False)),
    'no_running': dict(
        V2, norm_cfg=dict(type='BN', track_running_stats=False)),
    'silu': dict(V2, act_cfg=dict(type='SiLU')),
    'prelu': dict(V2, act_cfg=dict(type='PReLU')),
    'leaky_without_norm': dict(
        V2, norm_cfg=None, act_cfg=dict(type='LeakyReLU')),
}


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('case', CASES)
def test_nothing_changes(case, mode):
    """Not in the second step either, whose gradients are added."""
    plain, saving = build(**CASES[case]), build(mode, **CASES[case])
    for _ in range(2):
        x = torch.randn(2, 3, 64, 64)
        assert_same(step(plain, x.clone().requires_grad_()),
                    step(saving, x.clone().requires_grad_()))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('norm_cfg', [
    dict(type='BN'), dict(type='GN', num_groups=4)], ids=['bn', 'gn'])
def test_under_autocast(dtype, norm_cfg):
    """Gradients are as far from those in double precision as the plain ones.

    They are no more equal: a sum in half precision depends on its order.
    """
    x = torch.randn(2, 3, 64, 64)
    options = dict(V2, norm_cfg=norm_cfg)
    truth = step(build(**options).double(), x.double())[1]
    found = {}
    for mode in (False, *MODES):
        model = build(mode, **options)
        with torch.autocast('cpu', dtype):
            outs = model(x)
        assert all(out.dtype == dtype for out in outs)
        loss_of(out.float() for out in outs).backward()
        grads, buffers = state(model, x)
        errors = [(grads[n] - g).norm() / g.norm() for n, g in truth.items()
                  if g is not None]
        found[mode] = outs, buffers, sum(errors)
        assert_same((found[False][0], {}, found[False][1]),
                    (outs, {}, buffers))
        assert found[mode][2] <= 1.02 * found[False][2]


@pytest.mark.parametrize('keep_convolutions', [True, False])
def test_residual_of_a_wider_type(keep_convolutions):
    """As of a stem that is kept out of autocast."""
    block = build(arch=dict(TINY, aggregated_channels=(12, 24)), ese='none',
                  residual='same-width').stage2.block1
    found = []
    for run in (block, lambda x: recompute(
            describe_block(block), x, keep_convolutions)[0]):
        block.zero_grad()
        torch.manual_seed(2)
        x = torch.randn(2, 12, 16, 16, requires_grad=True)
        with torch.autocast('cpu', torch.bfloat16):
            y = run(x)
        loss_of([y]).backward()
        found.append(([y], state(block, x)[0], {}))
    assert y.dtype == torch.float32
    assert_same(*found, 0.02)


@pytest.mark.parametrize('mode', MODES)
def test_in_double_precision(mode):
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    assert_same(step(build(**V2).double(), x),
                step(build(mode, **V2).double(), x), 1e-13)


@pytest.mark.parametrize('mode', MODES)
def test_channels_last(mode):
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    models = [build(with_cp, **V2).to(memory_format=torch.channels_last)
              for with_cp in (False, mode)]
    plain, saving = (step(model, x) for model in models)
    assert_same(plain, saving)
    assert saving[0][0].is_contiguous(memory_format=torch.channels_last)
    # DDP would have to copy gradients in another order.
    assert all(p.grad.stride() == p.stride() for p in models[1].parameters())


@pytest.mark.parametrize('mode', MODES)
def test_two_forwards_before_the_backwards(mode):
    xs = torch.randn(3, 2, 3, 64, 64)

    def run(model):
        first, second = model(xs[0]), model(xs[1])
        model.eval()
        with torch.no_grad():
            third = model(xs[2])
        # Backward in eval mode: what counts is how the forward ran.
        loss_of(second).backward()
        loss_of(first).backward()
        return (*first, *second, *third), *state(model)

    assert_same(run(build(**V2)), run(build(mode, **V2)))


@pytest.mark.parametrize('mode', MODES)
def test_two_losses_of_one_forward(mode):
    x = torch.randn(2, 3, 64, 64)

    def run(model):
        outs = model(x)
        outs[0].square().mean().backward(retain_graph=True)
        loss_of(outs).backward()
        return outs, *state(model)

    assert_same(run(build(**V2)), run(build(mode, **V2)))


@pytest.mark.parametrize('mode', MODES)
def test_weights_that_are_passed_in(mode):
    """The backward pass takes the weights that the forward pass had."""
    x = torch.randn(2, 3, 64, 64)
    found = []
    for with_cp in (False, mode):
        model = build(with_cp, **V2)
        given = {n: (p.detach() * 1.1).requires_grad_()
                 for n, p in model.named_parameters()}
        outs = functional_call(model, given, (x, ))
        loss_of(outs).backward()
        assert all(p.grad is None for p in model.parameters())
        found.append((outs, {n: p.grad for n, p in given.items()},
                      dict(model.named_buffers())))
    assert_same(*found)


@pytest.mark.parametrize('mode', MODES)
def test_weights_that_changed_are_an_error(mode):
    model = build(mode, **V2)
    loss = loss_of(model(torch.randn(2, 3, 64, 64)))
    with torch.no_grad():
        model.stage3.block1.layers[0].conv.weight.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


@pytest.mark.parametrize('options', [
    dict(V1), dict(V2, ese='none', frozen_stages=0), dict(V1, norm_eval=True),
    dict(V1, norm_cfg=dict(type='GN', num_groups=4))], ids=str)
@pytest.mark.parametrize('mode', MODES)
def test_second_derivatives(mode, options):
    """Of a gradient penalty. Torch has none of eSE's hard sigmoid."""
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)

    def run(model):
        images = x.clone().requires_grad_()
        outs = model.double()(images)
        grads = torch.autograd.grad(
            loss_of(outs), [images, *filter(lambda p: p.requires_grad,
                                            model.parameters())],
            create_graph=True)
        sum(g.square().mean() for g in grads).backward()
        return outs, *state(model, images)

    assert_same(run(build(**options)), run(build(mode, **options)), 1e-12)


@pytest.mark.parametrize('mode', MODES)
def test_hooks_are_called(mode):
    """Modules with hooks run as modules; hooks on weights are called once."""
    x = torch.randn(2, 3, 64, 64)
    found = []
    for with_cp in (False, mode):
        model = build(with_cp, **V2)
        seen, grads = [], []
        model.stage3.block1.layers[0].register_forward_hook(
            lambda module, args, out, to=seen: to.append(out.detach()))
        model.stage3.block2.layers[0].bn.weight.register_hook(
            lambda grad, to=grads: to.append(grad))
        found.append(step(model, x))
        assert len(grads) == 1
        assert len(seen) == (2 if with_cp == 'block' else 1)
        assert all(torch.equal(out, seen[0]) for out in seen)
    assert_same(*found)


@pytest.mark.parametrize('mode', MODES)
def test_hooks_on_stages_are_called(mode):
    """They are modules whose outputs are the network's."""
    x = torch.randn(2, 3, 64, 64)
    found = []
    for with_cp in (False, mode):
        model, seen = build(with_cp, **V2), []
        model.stage2.register_forward_hook(
            lambda module, args, out, to=seen: to.append(out))
        found.append(step(model, x))
        assert len(seen) == 1 and seen[0] is found[-1][0][0]
    assert_same(*found)


class Operators(TorchDispatchMode):
    """Counts operators on maps that are larger than a pixel."""

    def __init__(self):
        super().__init__()
        self.counts = dict(convolution=0, product=0)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix('aten::')
        if name == 'convolution':
            self.counts['convolution'] += args[0].shape[-1] > 1
        elif name in ('bmm', 'baddbmm_'):
            self.counts['product'] += args[-1].shape[-1] > 1
        return function(*args, **kwargs or {})


# V2-39 has 3 convolutions in the stem, and in each of 6 blocks 5 chained ones
# and one of 6 sources. The backward pass of the latter is a matrix product
# for each source.
@pytest.mark.parametrize('mode, convolutions, products', [
    (False, 0, 0), ('pointwise', 0, 6 * 6), ('block', 3 + 6 * 6, 6 * 6)])
def test_which_convolutions_run_again(mode, convolutions, products):
    model = build(mode, arch='V2-39')
    with Operators() as forward:
        outs = model(torch.randn(2, 3, 64, 64))
    with Operators() as backward:
        loss_of(outs).backward()
    assert forward.counts == dict(convolution=3 + 6 * 6, product=0)
    assert backward.counts == dict(convolution=convolutions, product=products)


def kept_maps(model, x):
    """Elements of the maps that autograd keeps, each once; no indices."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    maps = {}

    def pack(t):
        if t.dim() == 4 and t.shape[-1] > 1 and t.is_floating_point() and \
                t.untyped_storage().data_ptr() not in weights:
            maps[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        outs = model(x)
    return sum(t.numel() for t in maps.values()), outs


@pytest.mark.parametrize('options', [
    dict(arch='V2-39'), dict(V1), dict(arch='V2-19-slim-dw')], ids=str)
def test_which_maps_are_kept(options):
    """Inputs of stem and blocks, and convolutions', by a plain forward.

    Not what comes into a pool: a stage's output is its user's to keep.
    """
    x = torch.randn(2, 3, 64, 64)
    plain, count = build(**options), dict(inputs=0, convolutions=0)
    for module in plain.modules():
        kind = type(module).__name__
        if kind == 'OSABlock' or module is plain.stem:
            module.register_forward_pre_hook(lambda module, args: count.update(
                inputs=count['inputs'] + args[0].numel()))
        elif kind == 'Conv2d':
            module.register_forward_hook(lambda module, args, out:
                count.update(convolutions=count['convolutions'] + (
                    out.numel() if out.shape[-1] > 1 else 0)))
    plain(x)
    assert kept_maps(build('block', **options), x)[0] == count['inputs']
    assert kept_maps(build('pointwise', **options), x)[0] == sum(
        count.values())


@pytest.mark.parametrize('mode', MODES)
def test_compiled(mode):
    x = torch.randn(2, 3, 64, 64)
    plain, saving = build(**V2), build(mode, **V2)
    compiled = torch.compile(saving, backend='aot_eager')
    want = step(plain, x)
    outs = compiled(x)
    loss_of(outs).backward()
    for a, b in zip(want[0], outs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
    assert_same_state(want[1:], state(saving, x))


@pytest.mark.parametrize('mode', MODES)
def test_copies_and_weights_are_those_of_a_plain_model(mode):
    x = torch.randn(2, 3, 64, 64)
    plain, saving = build(**V2), build(mode, **V2)
    assert plain.state_dict().keys() == saving.state_dict().keys()
    loss_of(saving(x)).backward()
    copies = [copy.deepcopy(saving), pickle.loads(pickle.dumps(saving))]
    step(plain, x)
    plain.zero_grad()
    want = step(plain, x)
    for model in copies:
        model.zero_grad()
        assert_same(want, step(model, x))


@pytest.mark.parametrize('mode', MODES)
def test_nothing_is_kept_without_gradients(mode):
    model = build(mode, **V2)
    with torch.no_grad():
        kept, outs = kept_maps(model, torch.randn(2, 3, 64, 64))
    assert kept == 0 and not any(out.requires_grad for out in outs)
    model.requires_grad_(False)
    assert not any(out.requires_grad for out in model(torch.ones(2, 3, 64,
                                                                 64)))


@pytest.mark.parametrize('mode', MODES)
def test_no_images(mode):
    """An empty batch gives empty maps, as ever."""
    outs = build(mode, **V2)(torch.zeros(0, 3, 64, 64))
    assert [o.shape for o in outs] == [(0, 16, 16, 16), (0, 24, 8, 8)]


def test_true_is_block():
    assert VoVNet(TINY, with_cp=True).with_cp == 'block'


class Scaled(OSABlock):
    """The same layers, and something that they do not tell."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize('mode', MODES)
def test_other_modules_run_as_they_are(mode):
    found = []
    for with_cp in (False, mode):
        model = build(with_cp, **V2)
        model.stage2.block1.__class__ = Scaled
        model.stage3.pool = nn.AvgPool2d(2)
        model.stage3.block2.ese = nn.Sigmoid()
        found.append(step(model, torch.randn(
            2, 3, 64, 64, generator=torch.Generator().manual_seed(0))))
    assert_same(*found)


@pytest.mark.parametrize('mode', MODES)
def test_what_traces_and_transforms_sees_the_plain_network(mode):
    x, v = torch.randn(2, 2, 3, 64, 64)
    options = dict(V1, norm_eval=True)  # BN's buffers bar transforms
    plain, saving = build(**options), build(mode, **options)

    def gradient(model):
        return torch.func.grad(lambda x: loss_of(model(x)))(x)

    assert torch.equal(gradient(plain), gradient(saving))
    want = plain(x)
    with fwAD.dual_level():
        tangents = [fwAD.unpack_dual(model(fwAD.make_dual(x, v))[-1]).tangent
                    for model in (plain, saving)]
    assert torch.equal(*tangents)
    for model in (torch.fx.symbolic_trace(saving),
                  torch.jit.trace(saving, x, check_trace=False)):
        for a, b in zip(want, model(x), strict=True):
            assert torch.equal(a, b)


def _ddp_worker(rank, init, results):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=init, rank=rank, world_size=2)
    torch.manual_seed(1)
    x = torch.randn(2, 2, 3, 64, 64)[rank]
    out = []
    for with_cp in (False, *MODES):
        ddp = nn.parallel.DistributedDataParallel(build(with_cp, **V2))
        for _ in range(2):  # the second catches a stale reducer
            ddp.zero_grad()
            result = step(ddp, x)
        out.append(([o.detach() for o in result[0]], *result[1:]))
    torch.save(out, f'{results}/{rank}.pt')
    dist.destroy_process_group()
    os._exit(0)  # vovnet.engine.distributed says why


def test_under_ddp(tmp_path):
    mp.spawn(_ddp_worker, (f'file://{tmp_path}/init', str(tmp_path)), 2)
    ranks = [torch.load(tmp_path / f'{r}.pt') for r in range(2)]
    for plain, *saving in ranks:
        for found in saving:
            assert_same(plain, found)
    # DDP did reduce: both ranks hold the same gradients of different inputs.
    for a, b in zip(*ranks):
        assert all(torch.equal(g, b[1][n]) for n, g in a[1].items()
                   if g is not None)
        assert not torch.equal(a[0][0], b[0][0])
