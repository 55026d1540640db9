"""RefineDet's networks against published figures and straight-line code."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.transforms import Compose
from mmdet.models.backbones import SSDVGG, ResNet
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.registry import HOOKS
from mmpretrain.models.backbones import DenseNet
from torch import nn

from vovnet.analysis import compute_config_complexity
from vovnet.engine.build import build_network
from vovnet.models.backbones.refinedet_caffe import (
    RefineDetResNet50,
    RefineDetVGG,
)
from vovnet.models.backbones.refinedet_densenet import RefineDetDenseNet
from vovnet.models.necks import RefineDetNeck

CONFIGS = Path(__file__).parents[2] / 'configs'


def load(name):
    return Config.fromfile(str(CONFIGS / 'refinedet' / f'{name}.py'))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Parameters: counted layer by layer from the Caffe definitions, which have
# the paper's numbers to the last digit; for the DenseNets only those are
# known. Convolutions in G, and the paper's figure, which has the transposed
# ones too (0.14 G).
@pytest.mark.parametrize('network, params, convolutions, paper', [
    ('vovnet-39', (56_283_844, 49_647_604), 32.49, (56.28, 32.6)),
    ('vovnet-57', (70_323_844, 63_687_604), 36.28, (70.32, 36.45)),
    ('r50', (63_459_524, None), 25.26, (63.46, 25.43)),
    ('r101', (82_451_588, None), 32.84, (82.45, 33.02)),
    ('vgg16', (36_100_484, 34_440_884), None, None),
    ('densenet-201', (None, None), None, (56.13, 24.65)),
    ('densenet-161', (None, None), None, (66.76, 32.74)),
])
def test_costs_are_the_published_ones(network, params, convolutions, paper):
    found = compute_config_complexity(load(f'refinedet320_{network}_coco'))
    assert found.input == (1, 3, 320, 320) and not found.uncounted
    transposed = sum(layer.cost.macs for layer in found.layers
                     if layer.kind.startswith('transposed'))
    assert transposed == 256**2 * 4 * (20**2 + 10**2 + 5**2)
    if params[0]:
        assert found.total.params == params[0]
    if convolutions:
        plain = (found.total.macs - transposed) / 1e9
        assert round(plain, 2) == convolutions
    if paper:
        assert round(found.total.params / 1e6, 2) == paper[0]
        assert found.total.macs / 1e9 == pytest.approx(paper[1], rel=3e-3)
    if params[1]:
        voc = compute_config_complexity(
            load(f'refinedet512_{network}_voc0712'))
        assert voc.total.params == params[1]


@pytest.mark.parametrize('size, count, coordinates, area', [
    (320, 6375, 4_080_000, 19_660_800),
    (512, 16320, 16_711_680, 50_331_648)])
def test_priors(size, count, coordinates, area):
    head = load(f'refinedet{size}_vovnet-39_coco').model.bbox_head
    generator = TASK_UTILS.build(head.anchor_generator)
    boxes = torch.cat(generator.grid_priors(
        [(size // s, size // s) for s in (8, 16, 32, 64)],
        dtype=torch.double, device='cpu'))
    assert len(boxes) == count
    assert boxes.sum().item() == pytest.approx(coordinates, rel=1e-6)
    assert (boxes[:, 2:] - boxes[:, :2]).prod(1).sum().item() == \
        pytest.approx(area, rel=1e-6)
    expected = [[-12, -12, 20, 20], [-18.627, -7.314, 26.627, 15.314],
                [-7.314, -18.627, 15.314, 26.627]]
    if size == 320:
        expected += [[160, 160, 416, 416],
                     [106.981, 197.490, 469.019, 378.510],
                     [197.490, 106.981, 378.510, 469.019]]
    found = torch.cat([boxes[:3], boxes[-3:]])[:len(expected)]
    np.testing.assert_allclose(found, expected, atol=2e-3)


VGG, VOVNET = ('vgg16', ), ('vovnet-39', 'vovnet-57', 'r50', 'r101',
                             'densenet-201', 'densenet-161')


# The authors' Caffe scripts: images in a batch, milestones and end in
# thousands of iterations, weight decay, the ARM's thresholds.
@pytest.mark.parametrize('size, data, networks, batch, steps, decay, arm', [
    (320, 'coco', VGG + VOVNET, 32, (280, 360, 400), 5e-4, (.5, .5)),
    (512, 'coco', VGG, 32, (280, 360, 400), 5e-4, (.5, .5)),
    (512, 'coco', VOVNET, 20, (400, 480, 540), 5e-4, (.5, .5)),
    (320, 'voc0712', VGG, 32, (80, 100, 120), 5e-4, (.5, .5)),
    (512, 'voc0712', VGG, 32, (80, 100, 120), 5e-4, (.5, .5)),
    (320, 'voc0712', VOVNET, 32, (80, 100, 120), 1e-4, (.7, .3)),
    (512, 'voc0712', VOVNET, 20, (130, 160, 180), 1e-4, (.7, .3)),
])
def test_recipes_are_the_authors(size, data, networks, batch, steps, decay,
                                 arm):
    for network in networks:
        cfg = load(f'refinedet{size}_{network}_{data}')
        assert cfg.auto_scale_lr.base_batch_size == batch
        assert cfg.train_dataloader.batch_size * 4 == batch  # four GPUs
        scheduler, = cfg.param_scheduler
        assert not scheduler.by_epoch and scheduler.gamma == .1
        assert [n // 1000 for n in (
            *scheduler.milestones, cfg.train_cfg.max_iters)] == list(steps)
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.momentum,
                optimizer.weight_decay) == ('SGD', 1e-3, .9, decay)
        assigners = [cfg.model.train_cfg[m].assigner for m in ('arm', 'odm')]
        assert [(a.pos_iou_thr, a.neg_iou_thr) for a in assigners] == [
            arm, (.5, .5)]
        assert cfg.test_dataloader.dataset.pipeline[1].scale == (size, size)


def bn(x, norm):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight,
                        norm.bias)


def shake(module):
    """Give weights, biases and statistics values that all matter."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, .5 if 'running_var' in name else -.3,
                             1.5 if 'running_var' in name else .3)
    return module.eval()


@pytest.mark.parametrize('with_norm', [True, False])
def test_neck_equals_straight_line_code(with_norm):
    neck = RefineDetNeck(
        (8, 6, 12), extra_channels=16, out_channels=10,
        **({} if with_norm else dict(
            norm_cfg=None, l2_norm_scales=(10, None, 8))))
    shake(neck)
    maps = [torch.randn(2, c, s, 2 * s) for c, s in ((8, 16), (6, 8), (12, 4))]
    originals = [m.clone() for m in maps]

    def conv(module, x, padding=1, **kwargs):
        x = F.conv2d(x, module.conv.weight, module.conv.bias,
                     padding=padding, **kwargs)
        return bn(x, module.bn) if with_norm else x

    arm = list(maps)
    if with_norm:
        extra = neck.extra
        y = bn(F.conv2d(maps[2], extra.conv1.weight, stride=2), extra.bn1)
        y = bn(F.conv2d(y.relu(), extra.conv2.weight, padding=1), extra.bn2)
        y = bn(F.conv2d(y.relu(), extra.conv3.weight), extra.bn3)
        projection, norm = extra.downsample
        arm.append((y + bn(F.conv2d(maps[2], projection.weight, stride=2),
                           norm)).relu())
    else:
        first, second = neck.extra
        y = conv(first, maps[2], 0).relu()
        arm.append(conv(second, y, stride=2).relu())
        for i in 0, 2:
            length = arm[i].norm(dim=1, keepdim=True)
            arm[i] = arm[i] / length * neck.norms[i].weight[:, None, None]
    odm = []
    for block, x in zip(reversed(neck.blocks), reversed(arm)):
        y = conv(block.conv2, conv(block.conv1, x).relu())
        if odm:
            up = F.conv_transpose2d(
                odm[0], block.upsample.conv.weight, block.upsample.conv.bias,
                stride=2)
            y = y + (bn(up, block.upsample.bn) if with_norm else up)
        odm.insert(0, conv(block.conv3, y.relu()).relu())
    for found, expected in zip(neck(maps), (arm, odm)):
        assert len(found) == 4
        torch.testing.assert_close(list(found), expected)
    # Both modules read the maps; nobody may have written to them.
    torch.testing.assert_close(maps, originals, rtol=0, atol=0)


def test_neck_starts_as_in_caffe():
    neck = RefineDetNeck((64, 64, 64), extra_channels=256, out_channels=64)
    vgg = RefineDetNeck((64, 64, 64), extra_channels=256, out_channels=64,
                        norm_cfg=None, l2_norm_scales=(10, 8, None))
    for module in neck, vgg:
        module.init_weights()
    for name, param in neck.named_parameters():
        if param.dim() == 4:
            assert param.std().item() == pytest.approx(.01, rel=.05), name
    for name, param in vgg.named_parameters():
        if param.dim() == 4:
            bound = (3 / param[0].numel())**.5
            assert bound * .99 < param.abs().max() <= bound, name
        elif 'norms' not in name:
            assert not param.any(), name
    assert (vgg.norms[0].weight == 10).all()
    assert (vgg.norms[1].weight == 8).all()
    assert not list(vgg.norms[2].parameters())


def test_neck_refuses_what_does_not_fit():
    neck = RefineDetNeck((8, 8, 8), extra_channels=8, out_channels=8)
    maps = [torch.zeros(1, 8, s, s) for s in (37, 18, 9)]  # of 300 px
    with pytest.raises(ValueError, match='RefineDetNeck: .*multiples of 64'):
        neck(maps)
    with pytest.raises(ValueError, match='RefineDetNeck: l2_norm_scales'):
        RefineDetNeck((8, 8, 8), l2_norm_scales=(10, 8, None, None))
    with pytest.raises(ValueError, match='RefineDetNeck: extra_channels=30'):
        RefineDetNeck((8, 8, 8), extra_channels=30)


def test_vgg_taps():
    network, ssd = RefineDetVGG(), SSDVGG(16)
    ssd.load_state_dict(network.state_dict())  # the names are SSD's
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        found = network(x)
        conv4_3, _ = ssd(x)
        y = F.max_pool2d(conv4_3, 2)
        for i in 24, 26, 28:
            y = F.conv2d(y, ssd.features[i].weight, ssd.features[i].bias,
                         padding=1).relu()
        fc6, fc7 = ssd.features[31], ssd.features[33]
        z = F.conv2d(F.max_pool2d(y, 2), fc6.weight, fc6.bias, padding=3,
                     dilation=3).relu()
        z = F.conv2d(z, fc7.weight, fc7.bias).relu()
    torch.testing.assert_close(list(found), [conv4_3, y, z])
    assert [tuple(f.shape[1:]) for f in found] == [
        (512, 8, 12), (512, 4, 6), (1024, 2, 3)]


def test_resnet50_has_one_bias_more():
    cfg = dict(out_indices=(1, 2, 3), style='caffe')
    network, plain = RefineDetResNet50(**cfg), ResNet(50, **cfg)
    missing = network.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ['conv1.bias']
    nn.init.normal_(network.conv1.bias)  # of no effect
    # BN over a few values enlarges what single precision rounds.
    network, plain = network.double(), plain.double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    for found, expected in zip(network(x), plain(x)):
        torch.testing.assert_close(found, expected)


def test_densenet_is_tapped_before_pooling():
    cfg = dict(arch=dict(growth_rate=8, depths=[2, 3, 2, 2], init_channels=16),
               out_indices=(0, 1, 2, 3))
    network, plain = RefineDetDenseNet(**cfg), DenseNet(**cfg)
    shake(network)
    plain.load_state_dict(network.state_dict())
    plain.eval()
    x = torch.randn(1, 3, 64, 64)
    *found, last = network(x)
    *expected, expected_last = plain(x)
    for tap, pooled in zip(found, expected):
        torch.testing.assert_close(F.avg_pool2d(tap, 2), pooled)
    torch.testing.assert_close(last, expected_last)
    assert [x.shape[-1] for x in (*found, last)] == [16, 8, 4, 2]


def test_number_of_classes_is_checked_but_for_the_arm():
    hook = HOOKS.build(dict(type='mmdet.NumClassCheckHook'))
    runner = type('Runner', (), {})()
    runner.model = build_network(load('refinedet320_vovnet-39_voc0712'))
    dataset = type('Dataset', (), dict(metainfo=dict(classes=tuple('a' * 20))))
    runner.train_dataloader = type('Loader', (), dict(dataset=dataset()))()
    hook.before_train_epoch(runner)
    dataset.metainfo['classes'] = tuple('a' * 19)
    with pytest.raises(AssertionError, match='num_classes'):
        hook.before_train_epoch(runner)


@pytest.mark.parametrize('name, smallest', [
    ('refinedet320_vovnet-39_coco', 192), ('refinedet512_r101_voc0712', 256)])
def test_multi_scale_testing(name, smallest, tmp_path):
    """All views' detections come back to the image, the mirrored ones too."""
    cfg = load(name)
    cfg.model = load('refinedet128_vovnet-27-slim_shapes').model
    detector = build_network(cfg).eval()
    for kind, std in ('cls', .1), ('reg', 0):
        for param in getattr(detector.bbox_head.odm_head,
                             f'{kind}_convs').parameters():
            nn.init.normal_(param, std=std)
    model = MODELS.build(dict(cfg.tta_model, module=detector))
    file = tmp_path / 'image.png'
    rng = np.random.default_rng(0)
    cv2.imwrite(str(file), rng.integers(256, size=(60, 90, 3)).astype('u1'))
    views = Compose(cfg.tta_pipeline)(dict(
        img_path=str(file), img_id=0, instances=[], height=60, width=90))
    sizes = [tuple(s.metainfo['img_shape']) for s in views['data_samples']]
    assert len(sizes) == 16 and sizes[0] == (smallest, smallest)
    assert all(h == w and not h % 64 for h, w in sizes)
    # The smallest view and its mirror image.
    pair = [dict(inputs=[views['inputs'][i]],
                 data_samples=[views['data_samples'][i]]) for i in (0, 1)]
    with torch.inference_mode():
        plain, mirrored = (detector.test_step(view)[0].pred_instances.bboxes
                           for view in pair)
        found = model.test_step({
            key: [view[key] for view in pair] for key in pair[0]
        })[0].pred_instances.bboxes
    left = 90 - mirrored[:, [2, 0]]
    mirrored = torch.stack(
        [left[:, 0], mirrored[:, 1], left[:, 1], mirrored[:, 3]], 1)
    near = [(found[:, None] - boxes).abs().amax(2).amin(1) < 1e-3
            for boxes in (plain, mirrored)]
    assert (near[0] | near[1]).all()
    assert (near[0] & ~near[1]).any() and (near[1] & ~near[0]).any()
