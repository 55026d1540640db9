"""VoVNets of other libraries, in straight lines from their description.

Written from the facts about the released networks (names, strides, pools,
identity connections, eSE), not from ``vovnet``: names are spelt out here once
more, weights are random, and the network is evaluated right from the state
dict.
"""
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F


def assert_close(got, want):
    """Compare maps, relative to the largest value of each."""
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


WIDE = dict(layer=(128, 160, 192, 224), out=(256, 512, 768, 1024))
SLIM = dict(layer=(64, 80, 96, 112), out=(128, 256, 384, 512))
V2_SLIM = dict(layer=(64, 80, 96, 112), out=(112, 256, 384, 512))
TINY = dict(layer=(4, 6, 6, 4), out=(8, 8, 12, 8))


class Net(NamedTuple):
    """Numbers of a network: its table in the papers or in a library."""
    blocks: tuple
    layer: tuple = WIDE['layer']
    out: tuple = WIDE['out']
    layers: int = 5
    stem: tuple = (64, 64, 128)
    dw: bool = False


NETS = {
    '27-slim': Net((1, 1, 1, 1), **SLIM), '39': Net((1, 1, 2, 2)),
    '57': Net((1, 1, 4, 3)), '75': Net((1, 2, 6, 3)),
    '93': Net((1, 3, 8, 3)), '99': Net((1, 3, 9, 3)),
    '19': Net((1, 1, 1, 1), layers=3),
    '19-slim': Net((1, 1, 1, 1), **V2_SLIM, layers=3),
    '19-slim-128': Net((1, 1, 1, 1), **SLIM, layers=3),
    '19-dw': Net((1, 1, 1, 1), layers=3, stem=(64, 64, 64), dw=True),
    '19-slim-dw': Net((1, 1, 1, 1), **V2_SLIM, layers=3, stem=(64, 64, 64),
                      dw=True),
    'tiny': Net((1, 2, 2, 1), **TINY, layers=2, stem=(4, 4, 8)),
}


class Library(NamedTuple):
    """Names and habits of a library."""
    stem: Callable
    layer: Callable
    aggregation: Callable
    ese: Callable = None
    reduction: Callable = None
    classifier: str = ''
    conv: str = 'conv'
    norm: str = 'bn'
    dw: tuple = ()
    strides: tuple = (2, 1, 2)
    pool: dict = dict(ceil_mode=True)
    residual: str = 'later blocks'
    where_ese: str = 'all'


def authors_block(s, b):
    return f'stage{s}.OSA{s}_{b}'


AUTHORS = Library(
    stem=lambda i: f'stem.stem_{i + 1}/',
    layer=lambda s, b, k: f'{authors_block(s, b)}.layers.{k}.'
    f'OSA{s}_{b}_{k}/',
    aggregation=lambda s, b: f'{authors_block(s, b)}.concat.'
    f'OSA{s}_{b}_concat/',
    ese=lambda s, b: f'{authors_block(s, b)}.ese.fc',
    reduction=lambda s, b: f'{authors_block(s, b)}.conv_reduction.'
    f'OSA{s}_{b}_reduction_0/',
    classifier='classifier', norm='norm',
    dw=('dw_conv3x3', 'pw_conv1x1', 'pw_norm'))
AUTHORS_V1 = AUTHORS._replace(where_ese='none')
PYTORCHCV = Library(
    stem=lambda i: f'features.init_block.conv{i + 1}.',
    layer=lambda s, b, k: f'features.stage{s - 1}.unit{b}.branches.'
    f'branch{k + 1}.',
    aggregation=lambda s, b: f'features.stage{s - 1}.unit{b}.concat_conv.',
    classifier='output', where_ese='none')
VISION_TOOLBOX = Library(
    stem=lambda i: f'stem.{i}.',
    layer=lambda s, b, k: f'stages.{s - 2}.module_{b - 1}.convs.{k}.',
    aggregation=lambda s, b: f'stages.{s - 2}.module_{b - 1}.out_conv.',
    ese=lambda s, b: f'stages.{s - 2}.module_{b - 1}.ese.linear',
    norm='norm', strides=(2, 1, 1), pool=dict(padding=1),
    residual='same width')
VISION_TOOLBOX_V1 = VISION_TOOLBOX._replace(where_ese='none')
TIMM = Library(
    stem=lambda i: f'stem.{i}.',
    layer=lambda s, b, k: f'stages.{s - 2}.blocks.{b - 1}.conv_mid.{k}.',
    aggregation=lambda s, b: f'stages.{s - 2}.blocks.{b - 1}.conv_concat.',
    ese=lambda s, b: f'stages.{s - 2}.blocks.{b - 1}.attn.fc',
    reduction=lambda s, b:
    f'stages.{s - 2}.blocks.{b - 1}.conv_reduction.',
    classifier='head.fc', dw=('conv_dw', 'conv_pw', 'bn'), where_ese='last')
TIMM_A = TIMM._replace(where_ese='none', residual='none')


def blocks_of(net):
    """(stage, block, whether it is the stage's last)."""
    return [(s, b, b == num) for s, num in enumerate(net.blocks, 2)
            for b in range(1, num + 1)]


def random_weights(net, library, counters=True, classes=0):
    """A state dict as the library would save it."""
    state = {}

    def conv(name, out, into, kernel):
        state[f'{name}.weight'] = torch.empty(
            out, into, kernel, kernel).uniform_(-1, 1) * (
                6 / into / kernel**2)**0.5

    def norm(name, channels):
        state[f'{name}.weight'] = torch.empty(channels).uniform_(0.5, 1.5)
        state[f'{name}.bias'] = torch.randn(channels) / 10
        state[f'{name}.running_mean'] = torch.randn(channels) / 10
        state[f'{name}.running_var'] = torch.empty(channels).uniform_(0.5, 2)
        if counters:
            state[f'{name}.num_batches_tracked'] = torch.tensor(7)

    def conv_norm(begin, out, into, kernel, dw):
        if dw:
            depthwise, pointwise, its_norm = library.dw
            conv(begin + depthwise, into, 1, 3)
            conv(begin + pointwise, out, into, 1)
            norm(begin + its_norm, out)
        else:
            conv(begin + library.conv, out, into, kernel)
            norm(begin + library.norm, out)

    into = 3
    for i, width in enumerate(net.stem):
        conv_norm(library.stem(i), width, into, 3, net.dw and i > 0)
        into = width
    for s, b, last in blocks_of(net):
        width, out = net.layer[s - 2], net.out[s - 2]
        channels = into
        if net.dw and into != width:
            conv_norm(library.reduction(s, b), width, into, 1, False)
            channels = width
        for k in range(net.layers):
            conv_norm(library.layer(s, b, k), width, channels, 3, net.dw)
            channels = width
        conv_norm(library.aggregation(s, b), out,
                  into + net.layers * width, 1, False)
        if library.where_ese == 'all' or library.where_ese == 'last' and last:
            conv(library.ese(s, b), out, out, 1)
            state[f'{library.ese(s, b)}.bias'] = torch.randn(out)
        into = out
    if classes:
        state[f'{library.classifier}.weight'] = torch.randn(classes, into)
        state[f'{library.classifier}.bias'] = torch.randn(classes)
    return state


def evaluate(state, net, library, x, eps=1e-5):
    """The four maps of the network, from its state dict."""

    def norm(x, name):
        mean, var, gamma, beta = (
            state[f'{name}.{kind}'][:, None, None]
            for kind in ('running_mean', 'running_var', 'weight', 'bias'))
        return ((x - mean) / (var + eps).sqrt() * gamma + beta).clamp(min=0)

    def conv_norm(x, begin, stride=1):
        if library.dw and f'{begin}{library.dw[0]}.weight' in state:
            depthwise, pointwise, its_norm = (begin + n for n in library.dw)
            x = F.conv2d(x, state[f'{depthwise}.weight'], None, stride, 1,
                         groups=x.shape[1])
            x = F.conv2d(x, state[f'{pointwise}.weight'])
            return norm(x, its_norm)
        weight = state[f'{begin}{library.conv}.weight']
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        return norm(x, begin + library.norm)

    for i, stride in enumerate(library.strides):
        x = conv_norm(x, library.stem(i), stride)
    outs = []
    for s, b, last in blocks_of(net):
        if b == 1 and (s > 2 or library.strides == (2, 1, 1)):
            x = F.max_pool2d(x, 3, 2, **library.pool)
        y, features = x, [x]
        reduction = library.reduction and library.reduction(s, b)
        if reduction and f'{reduction}{library.conv}.weight' in state:
            y = conv_norm(y, reduction)
        for k in range(net.layers):
            y = conv_norm(y, library.layer(s, b, k))
            features.append(y)
        y = conv_norm(torch.cat(features, 1), library.aggregation(s, b))
        gate = library.ese and f'{library.ese(s, b)}.weight'
        if gate and gate in state:
            z = F.conv2d(y.mean((2, 3), keepdim=True), state[gate],
                         state[gate.replace('weight', 'bias')])
            y = y * (F.relu6(z + 3) / 6)
        if library.residual == 'later blocks' and b > 1 or \
                library.residual == 'same width' and x.shape[1] == y.shape[1]:
            y = y + x
        x = y
        if last:
            outs.append(x)
    return outs
