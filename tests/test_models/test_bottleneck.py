"""The bottleneck of the VoVNet paper's Table 3, an option of the backbone."""
import pytest
import torch
import torch.nn.functional as F
from test_vovnet import ARCHS, TINY
from torch import nn

from vovnet.models import VoVNet


def step(model, x):
    """One training forward and backward: outputs, gradients, buffers."""
    outs = model(x)
    sum((o * torch.linspace(-1, 1, o.numel()).view_as(o)).sum()
        for o in outs).backward()
    backbone = getattr(model, 'module', model)
    return ([o.detach() for o in outs],
            {n: p.grad for n, p in backbone.named_parameters()
             if p.grad is not None},
            {n: b.clone() for n, b in backbone.named_buffers()})


def assert_same(a, b):
    """Outputs and buffers are equal, gradients but for rounding."""
    for x, y in zip(a[0], b[0], strict=True):
        assert torch.equal(x, y)
    for x, y, tolerance in zip(a[1:], b[1:], (3e-5, 0)):
        assert x.keys() == y.keys()
        for key in x:
            assert (x[key] - y[key]).abs().max() <= \
                tolerance * x[key].abs().max(), key


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_equals_straight_lines():
    """Half of the 3x3's channels between norm, ReLU and the 3x3."""
    block = VoVNet(TINY, bottleneck=True).double().eval().stage3.block1
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    state = block.state_dict()

    def conv(x, name):
        weight = state[f'{name}.conv.weight']
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return F.batch_norm(
            x, state[f'{name}.bn.running_mean'],
            state[f'{name}.bn.running_var'], state[f'{name}.bn.weight'],
            state[f'{name}.bn.bias']).relu()

    x = torch.randn(1, 16, 7, 6, dtype=torch.double)
    y = conv(conv(x, 'layers.0.0'), 'layers.0.1')
    z = conv(conv(y, 'layers.1.0'), 'layers.1.1')
    want = conv(torch.cat([x, y, z], 1), 'aggregation')
    assert torch.allclose(block(x), want, atol=1e-12)
    assert [state[f'layers.{i}.{k}.conv.weight'].shape[:2]
            for i in range(2) for k in range(2)] == [
                (6, 16), (12, 6), (6, 12), (12, 6)]


@pytest.mark.parametrize('arch', ARCHS)
def test_outputs_stay_and_every_parameter_learns(arch):
    plain, model = VoVNet(arch), VoVNet(arch, bottleneck=True)
    assert model.out_channels == plain.out_channels
    model.init_weights()
    outs = model(torch.randn(2, 3, 64, 64))
    assert [o.shape for o in outs] == [
        (2, c, 64 // s, 64 // s)
        for c, s in zip(plain.out_channels, plain.strides)]
    sum(o.square().mean() for o in outs).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0
               for p in model.parameters())


@pytest.mark.parametrize('arch', [TINY, 'V1-27-slim', 'V2-19-slim-dw'])
def test_checkpointing_changes_nothing(arch):
    plain = VoVNet(arch, bottleneck=True).train()
    saving = VoVNet(arch, bottleneck=True, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for _ in range(2):
        assert_same(step(plain, x), step(saving, x))


def test_frozen_stages():
    model = VoVNet(TINY, bottleneck=True, frozen_stages=1).train()
    for stage, frozen in ((model.stage2, True), (model.stage3, False)):
        assert all(p.requires_grad != frozen for p in stage.parameters())
        assert all(m.training != frozen for m in stage.modules())
