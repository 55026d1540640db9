"""SSD300 on MobileNet and Pelee304: the other rows of Table 2."""
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from mmdet.registry import TASK_UTILS
from torch import nn

from vovnet.analysis.complexity import compute_config_complexity
from vovnet.engine.build import build_network
from vovnet.engine.config import load_config
from vovnet.models import MobileNetV1, PeleeNet
from vovnet.models.necks import PeleeNeck

CONFIGS = Path(__file__).parents[2] / 'configs'
SSD = 'ssd/ssd300_mobilenet_voc0712'
PELEE = 'pelee/pelee304_peleenet_voc0712'


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def load(name):
    return load_config(f'{CONFIGS}/{name}.py')


# VoVNet's paper cuts off, Pelee's rounds: 5.7 M and 1.1 G of 1150 M; 5.4 M
# and 1.2 G of 5.43 M and 1210 M.
@pytest.mark.parametrize('name, params, gmacs', [
    (SSD, '5.7', '1.1'), (PELEE, '5.4', '1.2')])
def test_parameters_and_multiply_adds(name, params, gmacs):
    total = compute_config_complexity(load(name)).total
    assert str(total.params / 1e6)[:3] == params
    assert str(total.macs / 1e9)[:3] == gmacs
    if name == PELEE:
        assert round(total.params / 1e6, 2) == 5.43
        assert total.macs / 1e6 == pytest.approx(1210, rel=0.01)
    else:
        assert total.macs / 1e6 == pytest.approx(1150, rel=0.01)


@pytest.mark.parametrize('name, size, maps, priors', [
    (SSD, 300, (19, 10, 5, 3, 2, 1), (3, 6, 6, 6, 6, 6)),
    (PELEE, 304, (19, 19, 10, 5, 3, 1), (6, ) * 6)])
def test_maps_and_priors(name, size, maps, priors):
    network = build_network(load(name)).eval()
    with torch.inference_mode():
        scores, deltas = network(torch.zeros(1, 3, size, size))
    assert [s.shape[1:] for s in scores] == [
        (n * 21, m, m) for n, m in zip(priors, maps)]
    assert [d.shape[1:] for d in deltas] == [
        (n * 4, m, m) for n, m in zip(priors, maps)]
    # Caffe spreads the cells evenly over the image where no step is given.
    boxes = network.bbox_head.prior_generator.grid_priors(
        [(m, m) for m in maps], device='cpu')
    for level, n, m in zip(boxes, priors, maps):
        middle = (level[:, :2] + level[:, 2:]) / 2
        cells = (np.arange(m) + 0.5) * size / m
        want = np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 1, 2)
        assert middle.numpy().reshape(m * m, n, 2) == pytest.approx(
            np.broadcast_to(want, (m * m, n, 2)), abs=1e-3)


def test_prior_box_generator():
    """Of the first level there is no larger square."""
    generator = TASK_UTILS.build(dict(
        type='PriorBoxGenerator', strides=[10, 20], ratios=[[4], [4]],
        min_sizes=[8, 16], max_sizes=[None, 25]))
    assert generator.num_base_priors == [3, 4]
    small, large = generator.grid_priors([(1, 2), (1, 1)], device='cpu')
    assert small.tolist() == [
        [1, 1, 9, 9], [-3, 3, 13, 7], [3, -3, 7, 13],
        [11, 1, 19, 9], [7, 3, 23, 7], [13, -3, 17, 13]]
    assert large.tolist() == [
        [2, 2, 18, 18], [0, 0, 20, 20], [-6, 6, 26, 14], [6, -6, 14, 26]]


def random_statistics(module):
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.normal_(std=0.1)
            child.running_var.uniform_(0.5, 2)
            nn.init.uniform_(child.weight, 0.5, 2)
    return module.eval()


def test_mobilenet_equals_timm():
    """timm's has ReLU6, the only difference: its activation is replaced."""
    theirs = timm.create_model('mobilenetv1_100', act_layer=nn.ReLU)
    random_statistics(theirs)
    ours = MobileNetV1(out_indices=(0, 5, 11, 13)).eval()
    state = [(k, v) for k, v in theirs.state_dict().items()
             if not k.startswith(('classifier', 'conv_head', 'bn2'))]
    keys = list(ours.state_dict())
    assert len(keys) == len(state)
    ours.load_state_dict(dict(zip(keys, (v for _, v in state))))
    x = torch.randn(2, 3, 75, 64)
    with torch.inference_mode():
        want = theirs.forward_features(x)
        got = ours(x)
    assert torch.allclose(got[-1], want, rtol=1e-4,
                          atol=1e-5 * want.abs().max())
    assert [g.shape[1:] for g in got] == [
        (32, 38, 32), (256, 10, 8), (512, 5, 4), (1024, 3, 2)]
    assert ours.out_channels == (32, 256, 512, 1024)
    assert ours.strides == (2, 8, 16, 32)


def conv(state, name, x, stride=1, act=True, padding=None):
    weight = state[f'{name}.conv.weight']
    bias = state.get(f'{name}.conv.bias')
    if padding is None:
        padding = weight.shape[-1] // 2
    x = F.conv2d(x, weight, bias, stride, padding)
    if bias is None:
        x = F.batch_norm(
            x, state[f'{name}.bn.running_mean'],
            state[f'{name}.bn.running_var'], state[f'{name}.bn.weight'],
            state[f'{name}.bn.bias'], eps=1e-3)
    return x.relu() if act else x


def test_peleenet_equals_the_paper():
    """Table 1 in straight lines."""
    model = random_statistics(PeleeNet(out_indices=(0, 1, 2, 3)).double())
    state = model.state_dict()
    x = images = torch.randn(1, 3, 76, 70, dtype=torch.double)
    x = conv(state, 'stem.conv', x, 2)
    pooled = F.max_pool2d(
        F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), value=-torch.inf), 2)
    branch = conv(state, 'stem.branch.1',
                  conv(state, 'stem.branch.0', x), 2)
    x = conv(state, 'stem.fuse', torch.cat([pooled, branch], 1))
    outs = []
    for i, layers in enumerate((3, 4, 8, 6)):
        if i:
            # A window that hangs over the border averages what is inside.
            ones = F.pad(torch.ones_like(x), (0, 1, 0, 1))
            x = F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2) / F.avg_pool2d(
                ones, 2)
        for j in range(layers):
            at = f'stages.{i}.{j + (i > 0)}'
            short = conv(state, f'{at}.short.1',
                         conv(state, f'{at}.short.0', x))
            long = x
            for k in range(3):
                long = conv(state, f'{at}.long.{k}', long)
            x = torch.cat([x, short, long], 1)
        x = conv(state, f'stages.{i}.{layers + (i > 0)}', x)
        outs.append(x)
    got = model(images)
    for a, b in zip(got, outs, strict=True):
        assert torch.allclose(a, b, atol=1e-9)
    assert model.out_channels == (128, 256, 512, 704)
    assert model.strides == (4, 8, 16, 32)


def test_pelee_neck_equals_the_authors():
    model = random_statistics(PeleeNeck((6, 8), 10).double())
    state = model.state_dict()
    inputs = [torch.randn(1, 6, 19, 19, dtype=torch.double),
              torch.randn(1, 8, 10, 10, dtype=torch.double)]
    scales = list(inputs)
    for i, (stride, padding) in enumerate(((2, 1), (1, 0), (1, 0))):
        x = conv(state, f'extras.{i}.0', scales[-1])
        scales.append(conv(state, f'extras.{i}.1', x, stride,
                           padding=padding))
    want = []
    for i, x in enumerate(scales):
        y = conv(state, f'blocks.{i}.learn.1',
                 conv(state, f'blocks.{i}.learn.0', x))
        y = conv(state, f'blocks.{i}.learn.2', y, act=False)
        y = y + conv(state, f'blocks.{i}.project', x, act=False)
        want.append(y.relu())
    got = model(inputs)
    assert [g.shape[-1] for g in got] == [19, 19, 10, 5, 3, 1]
    for a, b in zip(got, [want[0], *want], strict=True):
        assert torch.allclose(a, b, atol=1e-9)


@pytest.mark.parametrize('model, count', [
    (MobileNetV1, 3_206_976), (PeleeNet, 2_097_248)])
def test_every_parameter_learns(model, count):
    """Counts by hand: convolutions and two numbers a channel of norms."""
    network = model()
    network.init_weights()
    assert sum(p.numel() for p in network.parameters()) == count
    sum(o.square().mean() for o in network(torch.randn(2, 3, 96, 96))
        ).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0
               for p in network.parameters())


@pytest.mark.parametrize('model, indices', [
    (MobileNetV1, (11, 14)), (MobileNetV1, ()), (PeleeNet, (4, )),
    (PeleeNet, ())])
def test_wrong_outputs_are_named(model, indices):
    with pytest.raises(ValueError) as error:
        model(out_indices=indices)
    assert str(error.value).startswith(f'{model.__name__}: out_indices=')
    assert '\n' not in str(error.value)


def test_stages_that_nobody_asks_for_are_not_built():
    assert len(PeleeNet(out_indices=(1, )).stages) == 2
    assert len(MobileNetV1(out_indices=(5, )).layers) == 6


def test_images_that_are_too_small_are_named():
    neck = PeleeNeck((6, 8), 10)
    with pytest.raises(ValueError, match='^PeleeNeck: maps of 8x8 px'):
        neck([torch.zeros(1, 6, 16, 16), torch.zeros(1, 8, 8, 8)])
