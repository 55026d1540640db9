"""VoVNet's ``with_cp`` on CUDA, which need not be there.

Kernels for CUDA are choosier than a CPU's about the types of what they take,
and autocast has other lists for it.
"""
from contextlib import nullcontext

import pytest
import torch
from fake_cuda import Kernels, fake_cuda, grad, peer
from test_recompute import MODES, V2, assert_same, build, step
from torch import nn

SYNC = dict(norm_cfg=dict(type='SyncBN'))
# A pool behind a residual and behind none.
TINY = dict(num_blocks=(2, 1), num_layers=1, stage_channels=(8, 12),
            aggregated_channels=(16, 24), stem_channels=(8, 8, 12))
ARCHS = {
    'V1': dict(arch=TINY),
    'V2': dict(V2, arch=TINY),
    'depthwise': dict(V2, arch=dict(TINY, depthwise=True)),
}
NORMS = {
    'bn': dict(),
    'norm_eval': dict(norm_eval=True),
    'frozen_norm': dict(norm_eval=True,
                        norm_cfg=dict(type='BN', requires_grad=False)),
    'gn': dict(norm_cfg=dict(type='GN', num_groups=4)),
    'sync_alone': SYNC,
    'sync_eval': dict(SYNC, norm_eval=True),
    'sync': SYNC,
}
CASES = ['V1-bn', 'V1-sync_eval', 'V2-bn', 'V2-frozen_norm', 'V2-gn',
         'V2-sync', 'depthwise-norm_eval', 'depthwise-gn',
         'depthwise-sync_alone']
ORDERS = {'contiguous': torch.contiguous_format,
          'channels_last': torch.channels_last}


def build_fake(options, order):
    """A network whose weights have no elements."""
    with torch.device('cuda'):
        model = build(**options)
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):  # Module.to is not for fake ones
            conv.weight.data = conv.weight.contiguous(memory_format=order)
    return model


def facts(outs):
    return [(out.shape, out.dtype, out.device, out.stride()) for out in outs]


def exchanges(model):
    """What SyncBN has to say to other processes."""
    count = sum(isinstance(m, nn.SyncBatchNorm) and m.training
                for m in model.modules())
    return dict(all_gather=count, all_reduce=count)


def check_gradients(outs, x, model):
    leaves = [x, *(p for p in model.parameters() if p.requires_grad)]
    found = grad(outs, leaves, [torch.ones_like(out) for out in outs])
    for leaf, gradient in zip(leaves, found, strict=True):
        assert gradient.shape == leaf.shape
        assert gradient.dtype == leaf.dtype
        assert gradient.device == leaf.device


@pytest.mark.parametrize('dtype', [None, torch.float16, torch.bfloat16],
                         ids=str)
@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('case', CASES)
def test_kernels_get_what_they_want(case, order, dtype, monkeypatch):
    arch, norm = case.split('-')
    process = peer(monkeypatch) if norm == 'sync' else nullcontext()
    with fake_cuda(monkeypatch), process as calls:
        model = build_fake({**ARCHS[arch], **NORMS[norm]}, ORDERS[order])
        x = torch.randn(2, 3, 64, 64, device='cuda', requires_grad=True)
        x.data = x.contiguous(memory_format=ORDERS[order])
        autocast = torch.autocast('cuda', dtype, enabled=dtype is not None)
        with autocast, torch.no_grad():
            want = facts(model(x))
        for model.with_cp in MODES:
            if calls is not None:
                calls.clear()
            with autocast:
                outs = model(x)
            check_gradients(outs, x, model)
            assert facts(outs) == want
            assert calls is None or calls == exchanges(model)


@pytest.mark.parametrize('options', [
    ARCHS['V1'], ARCHS['V2'], dict(V2, frozen_stages=0)],
    ids=['V1', 'V2', 'frozen_stem'])
@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('mode', MODES)
def test_sync_bn_beside_a_peer(mode, order, options, monkeypatch):
    """Each layer exchanges statistics once, and sums for gradients once."""
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=ORDERS[order])
    found = []
    with peer(monkeypatch) as calls, Kernels():
        for with_cp in (False, mode):
            model = build(with_cp, **options, **SYNC).to(
                memory_format=ORDERS[order])
            calls.clear()
            found.append(step(model, x.clone().requires_grad_()))
            assert calls == exchanges(model)
    assert_same(*found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('order', ORDERS)
@pytest.mark.parametrize('case', [c for c in CASES if c != 'V2-sync'])
def test_nothing_changes_on_a_gpu(case, order):
    """In double precision, where no kernel takes a shortcut."""
    arch, norm = case.split('-')
    x = torch.randn(2, 3, 64, 64).to('cuda', torch.double,
                                     memory_format=ORDERS[order])
    want, *found = (
        step(build(mode, **{**ARCHS[arch], **NORMS[norm]}).to(
            'cuda', torch.double, memory_format=ORDERS[order]),
            x.clone().requires_grad_())
        for mode in (False, *MODES))
    for got in found:
        for a, b in zip(want, got, strict=True):
            torch.testing.assert_close(
                b, {**a} if isinstance(a, dict) else a, rtol=1e-9, atol=1e-9)
