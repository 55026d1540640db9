"""Costs against counts by hand, torch's counter and the papers' figures."""
import pytest
import torch
import torch.nn.functional as F
import torchvision
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vovnet.analysis import compute_complexity
from vovnet.models import CIFARNet, VoVNet, arch_settings, cifar_arch_settings

# -- each kind of layer, written out by hand ---------------------------------

# (kind, layer, input, multiply-adds, Eq. 1, elements, parameters)
BY_HAND = [
    ('conv 3x3', nn.Conv2d(5, 7, 3, padding=1), (1, 5, 6, 8),
     48 * 9 * 5 * 7, 48 * (5 + 7) + 9 * 5 * 7,
     48 * 5 + 48 * 7 + 9 * 5 * 7 + 7, 9 * 5 * 7 + 7),
    # No padding: 6x8 becomes 4x6.
    ('conv 3x3', nn.Conv2d(5, 7, 3, bias=False), (1, 5, 6, 8),
     24 * 9 * 5 * 7, 24 * (5 + 7) + 9 * 5 * 7,
     48 * 5 + 24 * 7 + 9 * 5 * 7, 9 * 5 * 7),
    ('conv 1x7', nn.Conv2d(5, 7, (1, 7), padding=(0, 3), bias=False),
     (1, 5, 6, 8), 48 * 7 * 5 * 7, 48 * (5 + 7) + 7 * 5 * 7,
     48 * 5 + 48 * 7 + 7 * 5 * 7, 7 * 5 * 7),
    # A stem: the input that Eq. 1 takes is a quarter of what there is.
    ('conv 3x3 s2', nn.Conv2d(3, 64, 3, 2, 1, bias=False), (1, 3, 224, 224),
     112**2 * 9 * 3 * 64, 112**2 * (3 + 64) + 9 * 3 * 64,
     224**2 * 3 + 112**2 * 64 + 9 * 3 * 64, 9 * 3 * 64),
    ('conv 3x3 s2x1 d2', nn.Conv2d(4, 6, 3, (2, 1), 2, 2, bias=False),
     (1, 4, 8, 8), 32 * 9 * 4 * 6, 32 * (4 + 6) + 9 * 4 * 6,
     64 * 4 + 32 * 6 + 9 * 4 * 6, 9 * 4 * 6),
    # Depthwise: Eq. 1, which knows no groups, counts all of k² ci co.
    ('conv 3x3 g128', nn.Conv2d(128, 128, 3, 1, 1, groups=128, bias=False),
     (1, 128, 112, 112), 112**2 * 9 * 128, 112**2 * 256 + 9 * 128 * 128,
     112**2 * 256 + 9 * 128, 9 * 128),
    # 4 groups, each of 3 inputs and 2 outputs.
    ('conv 1x1 g4', nn.Conv2d(12, 8, 1, groups=4, bias=False),
     (1, 12, 5, 5), 25 * 4 * 3 * 2, 25 * (12 + 8) + 12 * 8,
     25 * 12 + 25 * 8 + 4 * 3 * 2, 4 * 3 * 2),
    # Each of the 5x7 inputs is spread over 2x2 of the 10x14 outputs.
    ('transposed conv 2x2 s2', nn.ConvTranspose2d(4, 6, 2, 2), (1, 4, 5, 7),
     35 * 4 * 4 * 6, 140 * (4 + 6) + 4 * 4 * 6,
     35 * 4 + 140 * 6 + 4 * 4 * 6 + 6, 4 * 4 * 6 + 6),
    # 5x5 becomes 9x9; 2 groups, each of 2 inputs and 3 outputs.
    ('transposed conv 3x3 s2 g2',
     nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2, bias=False), (1, 4, 5, 5),
     25 * 9 * 2 * 2 * 3, 81 * (4 + 6) + 9 * 4 * 6,
     25 * 4 + 81 * 6 + 9 * 2 * 2 * 3, 9 * 2 * 2 * 3),
    ('conv 3', nn.Conv1d(5, 7, 3, padding=1, bias=False), (1, 5, 11),
     11 * 3 * 5 * 7, 11 * (5 + 7) + 3 * 5 * 7, 11 * (5 + 7) + 3 * 5 * 7,
     3 * 5 * 7),
    ('conv 3x3x3', nn.Conv3d(2, 3, 3, padding=1, bias=False),
     (1, 2, 4, 5, 6), 120 * 27 * 2 * 3, 120 * (2 + 3) + 27 * 2 * 3,
     120 * (2 + 3) + 27 * 2 * 3, 27 * 2 * 3),
    # Batches: weights are read once.
    ('conv 1x1', nn.Conv2d(5, 7, 1, bias=False), (3, 5, 2, 2),
     3 * 4 * 5 * 7, 3 * 4 * (5 + 7) + 5 * 7, 3 * 4 * (5 + 7) + 5 * 7, 5 * 7),
    ('linear', nn.Linear(10, 4), (3, 10),
     3 * 10 * 4, 3 * (10 + 4) + 10 * 4, 3 * (10 + 4) + 10 * 4 + 4, 44),
    ('linear', nn.Linear(10, 4, bias=False), (2, 3, 10),
     6 * 10 * 4, 6 * (10 + 4) + 10 * 4, 6 * (10 + 4) + 10 * 4, 40),
    # k² ci co are 3x3; 18 offsets (and 9 factors) are read for each output.
    ('deformable conv 3x3', None, (1, 4, 6, 6),
     36 * 9 * 4 * 8, 36 * (4 + 8) + 9 * 4 * 8,
     36 * (4 + 8 + 18 + 9) + 9 * 4 * 8 + 8, 9 * 4 * 8 + 8),
]


class Deformable(torchvision.ops.DeformConv2d):

    def forward(self, x):
        offset, mask = (x.new_zeros(1, n, *x.shape[2:]) for n in (18, 9))
        return super().forward(x, offset, mask)


@pytest.mark.parametrize('where', ['shape', 'tensor'])
@pytest.mark.parametrize(
    'kind, layer, shape, macs, access, elements, params', BY_HAND)
def test_layer(kind, layer, shape, macs, access, elements, params, where):
    layer = layer or Deformable(4, 8, 3, padding=1)
    found = compute_complexity(layer, shape if where == 'shape' else
                       torch.zeros(*shape))
    [row] = found.layers
    assert row.kind == kind
    assert row.cost == (params, macs, access, elements, 0)
    assert found.total == row.cost
    assert not found.uncounted
    with torch.no_grad():
        assert row.output[-1] == layer(torch.zeros(*shape)).shape[-1]


def test_figures_of_the_reference():
    """Counted apart from this code: a strided and a depthwise layer."""
    strided, depthwise = (
        compute_complexity(layer, shape).total
        for _, layer, shape, *_ in BY_HAND
        if shape[2:] in ((224, 224), (112, 112)))
    assert strided[2:4] == (842_176, 955_072)
    assert depthwise[2:4] == (3_358_720, 3_212_416)


@pytest.mark.parametrize('pack, factors', [
    (DeformConv2dPack, 0), (ModulatedDeformConv2dPack, 9)])
def test_deformable_convolution_of_mmcv(pack, factors):
    found = compute_complexity(pack(4, 8, 3, padding=1, bias=False),
                               (1, 4, 6, 6))
    offsets = 36 * 9 * 4 * (18 + factors)
    assert [(row.name, row.cost.macs) for row in found.layers
            if row.cost.macs] == [
        ('conv_offset', offsets), ('', 36 * 9 * 4 * 8)]
    assert found.total.params == 9 * 4 * 8 + (9 * 4 + 1) * (18 + factors)
    assert not found.uncounted


@pytest.mark.parametrize('images', [(2, 10, 32), torch.zeros(2, 10, 32)],
                         ids=['shape', 'tensor'])
def test_attention(images):
    """Four projections of 10 x 32, and two products with 10 x 10 weights.

    On a CPU the layer would run as one operator, and the attention in it.
    """
    found = compute_complexity(
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), images)
    cost = found.parts['self_attn']
    assert cost.macs == 2 * (4 * 10 * 32 * 32 + 2 * 10 * 10 * 32)
    assert cost.params == 4 * (32 * 32 + 32)
    assert found.parts['linear1'].macs == 2 * 10 * 32 * 64
    assert not found.uncounted

    class Attention(nn.Module):

        def forward(self, x):
            return F.scaled_dot_product_attention(*[x[:, None]] * 3)

    found = compute_complexity(Attention(), images)
    assert found.total.macs == 2 * 2 * 10 * 10 * 32
    assert not found.uncounted


@pytest.mark.parametrize('dtype, size', [
    (torch.float32, 4), (torch.float64, 8)])
def test_bytes_of_concatenation(dtype, size):

    class Net(nn.Module):

        def forward(self, x):
            return torch.cat([x, x, torch.cat((x, x), dim=2)[:, :, :4]], 1)

    found = compute_complexity(Net(), torch.zeros(1, 3, 4, 5, dtype=dtype))
    assert [row.kind for row in found.layers] == ['cat of 2', 'cat of 3']
    assert found.total == (0, 0, 0, 0, (2 * 60 + 3 * 60) * size)


# -- calls, names and what stays as it was -----------------------------------


class Detector(nn.Module):
    """A head over three levels, functions, and calls of a bare forward."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.bbox_head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
        self.twin = self.bbox_head[0]  # a second name
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        x = self.backbone(x)
        outs = [self.bbox_head.forward(F.max_pool2d(x, k)) for k in (1, 2, 4)]
        kernel = self.bbox_head[1].weight[:1]
        return outs, F.conv2d(x, kernel), self.twin(x)


def test_shared_modules_and_functions():
    found = compute_complexity(Detector(), (1, 3, 16, 16))
    pixels = [64, 16, 4]
    assert [(row.name, row.part, row.cost.macs) for row in found.layers] == [
        ('backbone.0', 'backbone', 64 * 9 * 3 * 8)] + [
        (f'bbox_head.{i}', 'bbox_head', n * 8 * width)
        for n in pixels for i, width in enumerate((8, 2))] + [
        ('', '', 64 * 8), ('bbox_head.0', 'bbox_head', 64 * 64)]
    # Each call counts; a parameter counts once, and norms have some too.
    head = sum(pixels) * (8 * 8 + 8 * 2) + 64 * 64
    assert found.parts['bbox_head'].macs == head
    assert {k: v.params for k, v in found.parts.items()} == {
        'backbone': 9 * 3 * 8 + 16, 'bbox_head': 72 + 18, '': 3}
    assert [row.cost.params for row in found.layers] == [
        9 * 3 * 8, 72, 18, 0, 0, 0, 0, 3, 0]
    assert found.total.macs == 64 * 9 * 3 * 8 + head + 64 * 8
    assert found.total.params == 9 * 3 * 8 + 16 + 72 + 18 + 3


def test_the_network_stays_as_it_was():
    network = Detector()
    network.bbox_head.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for images in ((1, 3, 16, 16), torch.randn(1, 3, 16, 16)):
        compute_complexity(network, images)
    assert network.training and network.backbone[1].training
    assert not network.bbox_head.training
    assert not any('forward' in vars(m) for m in network.modules())
    for name, value in network.state_dict().items():
        assert value.device.type == 'cpu'
        assert torch.equal(value, before[name])


def test_networks_that_look_at_values():
    """They cannot run on the meta device; the count is the same."""

    class Looking(nn.Conv2d):

        def forward(self, x):
            assert float(x.sum()) == 0
            return super().forward(x)

    looking = compute_complexity(Looking(3, 4, 3), (1, 3, 8, 8))
    plain = compute_complexity(nn.Conv2d(3, 4, 3), (1, 3, 8, 8))
    assert looking.layers == plain.layers


def test_inference_mode_hides_nothing():
    network = nn.Sequential(nn.Linear(4, 5), nn.Conv1d(3, 2, 1))
    expected = compute_complexity(network, (1, 3, 4)).layers
    with torch.inference_mode():
        found = compute_complexity(network, torch.zeros(1, 3, 4))
    assert found.layers == expected
    assert [row.cost.macs for row in expected] == [3 * 4 * 5, 5 * 3 * 2]


def test_what_is_not_counted_is_named():

    class Net(nn.Module):

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3)
            self.conv = nn.Conv2d(3, 3, 1)
            self.unused = nn.Linear(3, 3)

        def forward(self, x):
            self.table(torch.zeros(1, dtype=torch.long, device=x.device))
            boxes = x.new_tensor([[0, 0, 0, 4, 4]])
            for _ in range(2):
                torchvision.ops.roi_align(self.conv(x), boxes, 2)

    found = compute_complexity(Net(), (1, 3, 8, 8))
    assert found.uncounted == ['torchvision.roi_align (2x)',
                               'table (Embedding)']
    assert found.parts['unused'] == (12, 0, 0, 0, 0)


# -- whole networks ----------------------------------------------------------


@pytest.mark.parametrize('build, size', [
    (lambda: VoVNet('V1-27-slim'), 96), (lambda: VoVNet('V2-39'), 96),
    (lambda: VoVNet('V2-19-slim-dw'), 96), (lambda: CIFARNet('OSA-5/43'), 32),
    (lambda: CIFARNet('DenseNet-40'), 32),
    (torchvision.models.densenet121, 96),
    (torchvision.models.resnext50_32x4d, 96),
    (torchvision.models.mobilenet_v3_small, 96),
    (lambda: torchvision.models.segmentation.deeplabv3_resnet50(
        weights_backbone=None), 96),  # dilated
    (torchvision.models.vit_b_16, 224), (torchvision.models.swin_t, 96)])
def test_flops_as_torch_counts_them(build, size):
    """FLOPs are two for each multiply-add."""
    with torch.device('meta'):
        network, image = build().eval(), torch.zeros(1, 3, size, size)
    with FlopCounterMode(display=False) as flops, \
            sdpa_kernel(SDPBackend.MATH):
        network(image)
    found = compute_complexity(network, image)
    assert 2 * found.total.macs == flops.get_total_flops() > 0
    assert found.total.params == sum(
        p.numel() for p in network.parameters())
    assert found.to_dict()['total']['flops'] == flops.get_total_flops()


@pytest.mark.parametrize('arch, size, giga', [
    ('V1-27-slim', 300, 5.10), ('V1-39', 320, 15.85), ('V1-57', 320, 19.64)])
def test_multiply_adds_of_the_paper(arch, size, giga):
    """Backbones of the VoVNet paper's Tables 2 and 4."""
    found = compute_complexity(VoVNet(arch), (1, 3, size, size))
    assert round(found.total.macs / 1e9, 2) == giga
    # The convolutions of the name, and a concatenation for each OSA block.
    blocks = sum(arch_settings[arch].num_blocks)
    kinds = [row.kind.split()[0] for row in found.layers]
    assert kinds.count('conv') == int(arch.split('-')[1])
    assert kinds.count('cat') == blocks and not found.uncounted


# -- the paper's CIFAR study -------------------------------------------------


def eq1(side, ci, co, kernel):
    """The paper's Eq. 1 and the multiply-adds of one convolution."""
    weight = kernel * kernel * ci * co
    return side * side * (ci + co) + weight, side * side * weight


def study(arch):
    """(Eq. 1, multiply-adds, weights) of a network's convolutions."""
    num_layers, width, dense = cifar_arch_settings[arch]
    channels, layers = 16, [(32, 3, 16, 3)]
    for block, side in enumerate((32, 16, 8)):
        joined = channels + num_layers * width
        for i in range(num_layers):
            ci = (channels + i * width if dense else
                  width if i else channels)
            layers.append((side, ci, width, 3))
        if not dense or block < 2:  # at the resolution before pooling
            layers.append((side, joined, joined, 1))
        channels = joined
    access, macs = map(sum, zip(*(eq1(*layer) for layer in layers)))
    return access, macs, sum(k * k * ci * co for _, ci, co, k in layers)


@pytest.mark.parametrize('arch', cifar_arch_settings)
def test_cifar_networks(arch):
    cost = compute_complexity(CIFARNet(arch), (1, 3, 32, 32))
    convolutions = [row for row in cost.layers if row.cost.macs]
    assert (cost.total.memory_access_cost, cost.total.macs,
            sum(row.cost.params for row in convolutions)) == study(arch)
    # All strides are 1: input and output have one size, as Eq. 1 has it.
    assert cost.total.elements == cost.total.memory_access_cost


@pytest.mark.parametrize('arch, without_stem, convolutions, with_fc', [
    ('DenseNet-40', 3_659_616, 3_679_504, 3_684_442),
    ('OSA-5/43', 2_567_321, 2_587_209, 2_594_490),
    ('OSA-12/20', 2.71e6, None, 2.74e6)])
def test_memory_access_cost_of_the_study(arch, without_stem, convolutions,
                                         with_fc):
    """3.66-3.68 M becomes 2.57-2.59 M; the paper prints 3.7 M and 2.5 M."""
    backbone = CIFARNet(arch)
    network = nn.Sequential(
        backbone, Last(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(backbone.out_channels[0], 10))
    found = compute_complexity(network, (1, 3, 32, 32))
    total = found.total.memory_access_cost
    stem, *_ = (row.cost.memory_access_cost for row in found.layers)
    linear = found.parts['4'].memory_access_cost
    if convolutions is None:
        assert round(total - stem - linear, -4) == without_stem
        assert round(total, -4) == with_fc
    else:
        assert total - stem - linear == without_stem
        assert total - linear == convolutions
        assert total == with_fc


class Last(nn.Module):

    def forward(self, maps):
        return maps[-1]


def test_densenet_40_is_that_of_its_paper():
    """1.0 M parameters; 264.8 M multiply-adds; 40 layers with weights."""
    found = compute_complexity(CIFARNet('DenseNet-40'), (1, 3, 32, 32))
    weights = [row.cost.params for row in found.layers if row.cost.macs]
    assert sum(weights) + 448 * 10 == 1_001_616
    assert len(weights) + 1 == 40
    assert round((found.total.macs + 448 * 10) / 1e6, 1) == 264.8
    # A block's concatenations make 28, 40, ..., 160 channels of 32x32, and
    # so on: what One-Shot Aggregation does once for each block.
    joined = sum(side * side * (start + 12 * i) for start, side in
                 ((16, 32), (160, 16), (304, 8)) for i in range(1, 13))
    assert found.total.cat_bytes == 4 * joined
