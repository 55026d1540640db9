"""Deformable convolutions against a loop (Dai et al. 2017, Zhu et al. 2019).

Each weight meets the input at its place plus an offset, y before x, read
bilinearly with zeros around the map, times a factor in version 2.
"""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
)

SETTINGS = [
    dict(kernel_size=3),
    dict(kernel_size=3, padding=1, stride=2, groups=2),
    dict(kernel_size=(1, 3), padding=(0, 1), deform_groups=2),
    dict(kernel_size=3, padding=2, dilation=2, groups=2, deform_groups=2),
]


def bilinear(plane, y, x):
    height, width = plane.shape
    total = 0.
    for row in (math.floor(y), math.floor(y) + 1):
        for col in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= col < width:
                total += ((1 - abs(y - row)) * (1 - abs(x - col)) *
                          plane[row, col])
    return total


def loop_deform_conv(layer, x, offset, mask):
    weight = layer.weight.detach().double().cpu().numpy()
    (kh, kw), (sh, sw) = layer.kernel_size, layer.stride
    (ph, pw), (dh, dw) = layer.padding, layer.dilation
    batch, channels = x.shape[:2]
    out = np.zeros((batch, len(weight), *offset.shape[2:]))
    shared = channels // layer.deform_groups  # channels per offset group
    for n, o, row, col in np.ndindex(out.shape):
        group = o // (len(weight) // layer.groups)
        for c, i, j in np.ndindex(weight.shape[1:]):
            channel = group * weight.shape[1] + c
            tap = (channel // shared) * kh * kw + i * kw + j
            y = row * sh - ph + i * dh + offset[n, 2 * tap, row, col]
            x_ = col * sw - pw + j * dw + offset[n, 2 * tap + 1, row, col]
            out[n, o, row, col] += (
                weight[o, c, i, j] * mask[n, tap, row, col] *
                bilinear(x[n, channel], y, x_))
    return out


def build(cls, setting, device, dtype=torch.float64, size=(6, 5)):
    """Build a layer, and an input, offsets and factors that fit it."""
    layer = cls(4, 6, **setting).to(device, dtype)
    x = torch.randn(2, 4, *size, dtype=dtype, device=device)
    plain = {k: v for k, v in setting.items() if k != 'deform_groups'}
    height, width = torch.nn.Conv2d(4, 6, **plain)(
        torch.zeros(2, 4, *size)).shape[2:]
    taps = layer.deform_groups * math.prod(layer.kernel_size)
    offset = 2 * torch.randn(
        2, 2 * taps, height, width, dtype=dtype, device=device)
    return layer, x, offset, torch.rand_like(offset[:, :taps])


def numpy(*tensors):
    return [t.detach().double().cpu().numpy() for t in tensors]


@pytest.mark.parametrize('setting', SETTINGS)
def test_version_1(device, setting):
    layer, x, offset, mask = build(DeformConv2d, setting, device)
    expected = loop_deform_conv(layer,
                                *numpy(x, offset, torch.ones_like(mask)))
    np.testing.assert_allclose(*numpy(layer(x, offset)), expected, atol=1e-9)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('setting', SETTINGS)
def test_version_2(device, setting, bias):
    layer, *args = build(ModulatedDeformConv2d, dict(setting, bias=bias),
                         device)
    expected = loop_deform_conv(layer, *numpy(*args))
    if bias:
        torch.nn.init.normal_(layer.bias)
        expected += numpy(layer.bias)[0][:, None, None]
    np.testing.assert_allclose(*numpy(layer(*args)), expected, atol=1e-9)


@pytest.mark.parametrize('setting', SETTINGS)
def test_gradient_of_version_1(device, setting):
    layer, x, offset, _ = build(DeformConv2d, setting, device, size=(4, 3))
    assert torch.autograd.gradcheck(
        lambda x, offset, weight: torch.func.functional_call(
            layer, {'weight': weight}, (x, offset)),
        [t.requires_grad_() for t in (x, offset, layer.weight)])


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('setting', SETTINGS)
def test_gradient_of_version_2(device, setting, bias):
    layer, *args = build(ModulatedDeformConv2d, dict(setting, bias=bias),
                         device, size=(4, 3))
    names = [name for name, _ in layer.named_parameters()]
    assert len(names) == 1 + bias
    assert torch.autograd.gradcheck(
        lambda x, offset, mask, *parameters: torch.func.functional_call(
            layer, dict(zip(names, parameters)), (x, offset, mask)),
        [t.requires_grad_() for t in (*args, *layer.parameters())])


@pytest.mark.parametrize('cls,factor', [(DeformConv2dPack, 1),
                                        (ModulatedDeformConv2dPack, 0.5)])
def test_fresh_layers_are_plain_convolutions(device, cls, factor):
    """Offsets start at zero, and the factors at sigmoid(0)."""
    layer = cls(4, 6, 3, padding=1, bias=False).to(device)
    x = torch.randn(2, 4, 7, 8, device=device)
    torch.testing.assert_close(
        layer(x), factor * F.conv2d(x, layer.weight, padding=1))


def test_short_types(device, short_type):
    layer, *args = build(ModulatedDeformConv2d, dict(kernel_size=3), device,
                         short_type)
    args[0].requires_grad_()
    out = layer(*args)
    out.float().sum().backward()
    assert out.dtype == args[0].grad.dtype == short_type
    assert layer.weight.grad.dtype == short_type
    # 36 products of a weight and a value read at four rounded factors.
    tolerance = 40 * torch.finfo(short_type).eps
    np.testing.assert_allclose(
        *numpy(out), loop_deform_conv(layer, *numpy(*args)), atol=tolerance)


def test_autocast(device, short_type):
    layer = ModulatedDeformConv2dPack(4, 6, 3, padding=1).to(device)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.1)
    x = torch.randn(2, 4, 7, 8, device=device)
    with torch.autocast(device, short_type):
        out = layer(x)
    out.float().square().mean().backward()
    assert out.dtype == short_type
    short = {n: p.grad.clone() for n, p in layer.named_parameters()}
    layer.zero_grad()
    layer(x).square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert short[name].dtype == torch.float32
        scale = parameter.grad.abs().max()
        torch.testing.assert_close(
            short[name] / scale, parameter.grad / scale, rtol=0, atol=0.1)
