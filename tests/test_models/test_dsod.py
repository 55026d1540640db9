"""DSOD against the papers' figures and Caffe's losses and detections."""
import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from caffe_reference import detect, encode, iou, match, multibox_loss
from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vovnet.analysis.complexity import compute_config_complexity
from vovnet.engine.build import build_network
from vovnet.engine.config import load_config
from vovnet.models import DSODDenseNet
from vovnet.models.dense_heads.multibox_head import select_candidates
from vovnet.models.necks import DSODNeck
from vovnet.models.necks.dsod_neck import DSODDownsample

CONFIGS = Path(__file__).parents[2] / 'configs' / 'dsod'
DSOD_MAPS = (38, 19, 10, 5, 3, 2)
VOVNET_MAPS = (37, 18, 9, 5, 3, 2)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope='module')
def config():
    """Read each config of the folder once."""
    cache = {}

    def read(name):
        if name not in cache:
            cache[name] = load_config(f'{CONFIGS}/{name}.py')
        return copy.deepcopy(cache[name])

    return read


# The paper's Tables 2 and 3 print 5.9 M and 5.3 G, 5.9 and 5.6, 4.8 and 4.6;
# the exact parameters are those of the official scripts' networks, or their
# reading (DSOD300's file has 59.2 MB with the statistics of batch norm).
@pytest.mark.parametrize('name, params, gmacs', [
    ('dsod300_densenet-67_voc0712', 5_833_372, 5.298),
    ('dsod300_vovnet-27-slim_voc0712', 5_971_932, 5.6635),
    ('dsod300_vovnet-27-slim_bottleneck_voc0712', 4.872, 4.644),
    ('dsod300_ds-64-192-48-1_voc0712', 14_715_804, None),
    ('dsod300_ds-64-192-48-1_coco', 21.701, None),
])
def test_parameters_and_multiply_adds(config, name, params, gmacs):
    total = compute_config_complexity(config(name)).total
    if isinstance(params, int):
        assert total.params == params
    else:
        assert round(total.params / 1e6, 3) == params
    if gmacs:
        digits = len(str(gmacs).partition('.')[2])
        assert round(total.macs / 1e9, digits) == gmacs


def test_size_of_the_official_file(config):
    """README of szq0214/DSOD: 59.2 MB for VOC and 87.2 MB for COCO.

    It also holds the layers' names and options.
    """
    for data, megabytes in (('voc0712', 59.2), ('coco', 87.2)):
        network = build_network(config(f'dsod300_ds-64-192-48-1_{data}'))
        values = sum(v.numel() for k, v in network.state_dict().items()
                     if not k.endswith('num_batches_tracked'))
        assert 0 <= megabytes - values * 4 / 1e6 < 0.15


@pytest.mark.parametrize('name, channels, maps', [
    ('ds-64-192-48-1', (800, 512, 512, 256, 256, 256), DSOD_MAPS),
    ('densenet-67', (352, 512, 512, 256, 256, 256), DSOD_MAPS),
    ('vovnet-27-slim', (256, 384, 512, 256, 256, 256), VOVNET_MAPS),
    ('vovnet-27-slim_bottleneck', (256, 384, 512, 256, 256, 256),
     VOVNET_MAPS)])
def test_maps(config, name, channels, maps):
    network = build_network(config(f'dsod300_{name}_voc0712')).eval()
    with torch.inference_mode():
        features = network.extract_feat(torch.zeros(1, 3, 300, 300))
        scores, deltas = network.bbox_head(features)
    assert [f.shape[1:] for f in features] == [
        (c, m, m) for c, m in zip(channels, maps)]
    for i, n in enumerate((4, 6, 6, 6, 4, 4)):
        assert scores[i].shape[1:] == (n * 21, maps[i], maps[i])
        assert deltas[i].shape[1:] == (n * 4, maps[i], maps[i])


def priors_of(cfg, maps):
    network = build_network(cfg)
    return torch.cat(network.bbox_head.prior_generator.grid_priors(
        [(m, m) for m in maps], device='cpu')).double()


def caffe_priors(maps, min_sizes, max_sizes):
    """The prior boxes of six scales as Caffe's layer lists them."""
    steps = (8, 16, 32, 64, 100, 300)
    ratios = ([2], [2, 3], [2, 3], [2, 3], [2], [2])
    boxes = []
    for i, n in enumerate(maps):
        low, high = min_sizes[i], max_sizes[i]
        sizes = [(low, low), ((low * high)**0.5, ) * 2]
        for r in ratios[i]:
            sizes += [(low * r**0.5, low / r**0.5),
                      (low / r**0.5, low * r**0.5)]
        for y in range(n):
            for x in range(n):
                cx, cy = (x + 0.5) * steps[i], (y + 0.5) * steps[i]
                boxes += [(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                          for w, h in sizes]
    return np.array(boxes)


# The sums were computed from Caffe's prior box layer, independently.
@pytest.mark.parametrize('name, maps, count, coordinates, area', [
    ('ds-64-192-48-1_voc0712', DSOD_MAPS, 8744, 5349536, 30402152),
    ('ds-64-192-48-1_coco', DSOD_MAPS, 8744, 5349536, 21460950),
    ('vovnet-27-slim_voc0712', VOVNET_MAPS, 8108, 4778272, 27640079)])
def test_priors(config, name, maps, count, coordinates, area):
    priors = priors_of(config(f'dsod300_{name}'), maps)
    assert len(priors) == count
    assert round(priors.sum().item()) == coordinates
    side = priors[:, 2:] - priors[:, :2]
    assert side.prod(1).sum().item() == pytest.approx(area, rel=1e-6)
    if 'coco' in name:
        sizes = (21, 45, 99, 153, 207, 261, 315)
    else:
        sizes = (30, 60, 111, 162, 213, 264, 315)
        assert priors[:4].numpy() == pytest.approx(np.array([
            [-11, -11, 19, 19], [-17.213, -17.213, 25.213, 25.213],
            [-17.213, -6.607, 25.213, 14.607],
            [-6.607, -17.213, 14.607, 25.213]]), abs=1e-3)
    want = caffe_priors(maps, sizes[:-1], sizes[1:])
    assert np.abs(priors.numpy() - want).max() < 1e-4


def test_three_cells_of_the_last_scale_are_outside(config):
    """What the config says of them: their boxes are all but outside."""
    priors = priors_of(config('dsod300_vovnet-27-slim_voc0712'), VOVNET_MAPS)
    last = priors[-16:].view(4, 4, 4)
    middle = (last[..., :2] + last[..., 2:]) / 2
    assert ((middle > 0) & (middle < 300)).all(-1).all(1).tolist() == [
        True, False, False, False]
    inside = last[1:].clamp(0, 300)
    area = (inside[..., 2:] - inside[..., :2]).prod(-1)
    whole = (last[1:, :, 2:] - last[1:, :, :2]).prod(-1)
    assert (area / whole).max() < 0.1
    assert (area == 0).float().mean() > 0.8


def pre_activated(state, name, x, stride=1):
    """Batch norm in training mode, ReLU, convolution."""
    x = F.batch_norm(x, None, None, state[f'{name}.bn.weight'],
                     state[f'{name}.bn.bias'], training=True)
    weight = state[f'{name}.conv.weight']
    return F.conv2d(x.relu(), weight, None, stride, weight.shape[-1] // 2)


def pool(x):
    """Caffe's 2x2 pooling: the last window may hang over the border."""
    right, down = (size % 2 for size in x.shape[:1:-1])
    return F.max_pool2d(F.pad(x, (0, right, 0, down), value=-torch.inf), 2)


def random_norms(module):
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.uniform_(child.weight, 0.5, 2)
            nn.init.normal_(child.bias)
    return module.double().train()


def dense(state, name, x):
    return torch.cat([x, pre_activated(
        state, f'{name}.conv',
        pre_activated(state, f'{name}.bottleneck', x))], 1)


def test_densenet_equals_the_paper():
    """Table 1 of DSOD in straight lines, with three channels a layer."""
    model = random_norms(DSODDenseNet(growth_rate=3, last_channels=8))
    state = model.state_dict()
    x = images = torch.randn(2, 3, 44, 37, dtype=torch.double)
    for i, stride in enumerate((2, 1, 1)):
        x = F.conv2d(x, state[f'stem.{i}.conv.weight'], None, stride, 1)
        x = F.batch_norm(x, None, None, state[f'stem.{i}.bn.weight'],
                         state[f'stem.{i}.bn.bias'], training=True).relu()
    outs = []
    for block, (pooled, layers) in enumerate(
            ((True, 6), (True, 8), (True, 8), (False, 8))):
        if pooled:
            x = pool(x)
        for i in range(layers):
            x = dense(state, f'blocks.{block}.{i + pooled}', x)
        x = pre_activated(state, f'blocks.{block}.{layers + pooled}', x)
        outs.append(x)
    got = model(images)
    assert model.out_channels == (128 + 14 * 3, 8)
    for a, b in zip(got, (outs[1], outs[3]), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def downsample(state, name, x):
    reused = pre_activated(state, f'{name}.reuse.1', pool(x))
    learnt = pre_activated(
        state, f'{name}.learn.1',
        pre_activated(state, f'{name}.learn.0', x), stride=2)
    return torch.cat([reused, learnt], 1)


@pytest.mark.parametrize('fuse', [0, 5])
def test_neck_equals_the_paper(fuse):
    model = random_norms(DSODNeck((6, 10), (6, 10 + fuse, 8, 4), fuse))
    for norm in model.norms:
        nn.init.uniform_(norm.weight, 1, 20)
    state = model.state_dict()
    inputs = [torch.randn(2, 6, 19, 14, dtype=torch.double),
              torch.randn(2, 10, 10, 7, dtype=torch.double)]
    want = list(inputs)
    if fuse:
        want[1] = torch.cat([want[1], pre_activated(
            state, 'links.0.1', pool(want[0]))], 1)
    for i in range(2):
        want.append(downsample(state, f'downsamples.{i}', want[-1]))
    got = model(inputs)
    assert [tuple(g.shape[2:]) for g in got] == [
        (19, 14), (10, 7), (5, 4), (3, 2)]
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        # The trunk is raw: only what is returned is normalised.
        length = (b**2).sum(1, keepdim=True).sqrt()
        b = b / length * state[f'norms.{i}.weight'].view(-1, 1, 1)
        assert torch.allclose(a, b, atol=1e-8)


def test_l2_norms_begin_with_20():
    assert all((norm.weight == 20).all() for norm in DSODNeck().norms)


@pytest.mark.parametrize('options, message', [
    (dict(in_channels=(6, 10), out_channels=(6, 12, 8)),
     'must begin with (6, 10)'),
    (dict(in_channels=(6, 10), out_channels=(6, 10, 8), fuse_channels=4),
     'must begin with (6, 14)'),
    (dict(in_channels=(6, ), out_channels=(6, 7)),
     'must be even from number 2 on')])
def test_channels_that_do_not_fit(options, message):
    with pytest.raises(ValueError) as error:
        DSODNeck(**options)
    assert str(error.value).startswith('DSODNeck: ')
    assert message in str(error.value) and '\n' not in str(error.value)


def test_initialisation(config):
    """Caffe's xavier in the body, a Gaussian of 0.01 in the predictors."""
    for name in ('vovnet-27-slim', 'densenet-67'):
        network = build_network(config(f'dsod300_{name}_voc0712'))
        network.init_weights()
        convs = {n: m for n, m in network.named_modules()
                 if isinstance(m, nn.Conv2d)}
        for n, conv in convs.items():
            weight = conv.weight.detach()
            if n.startswith('bbox_head'):
                assert weight.std().item() == pytest.approx(0.01, rel=0.05)
            else:
                bound = (3 / weight[0].numel())**0.5
                assert 0.98 * bound < weight.abs().max() <= bound
            assert conv.bias is None
        norms = {n: m for n, m in network.named_modules()
                 if isinstance(m, nn.BatchNorm2d)}
        assert sum('bbox_head' in n for n in norms) == 12
        for n, norm in norms.items():
            assert norm.eps == (1e-3 if 'bbox_head' in n else 1e-5)
            assert (norm.weight == 1).all() and (norm.bias == 0).all()


def head(num_classes=5, scales=(3, 6, 6), **options):
    """A head on maps of 12, 6 and 3 px for images of 96 px."""
    return MODELS.build(ConfigDict(
        type='mmdet.DSODHead', num_classes=num_classes, in_channels=(8, 8, 8),
        anchor_generator=dict(
            type='SSDAnchorGenerator', scale_major=False, input_size=96,
            min_sizes=[12, 28, 52], max_sizes=[28, 52, 76],
            # The last centre of the last scale is at 100 px: outside.
            strides=[8, 16, 40], ratios=[[2], [2, 3], [2, 3]]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder',
                        target_stds=[0.1, 0.1, 0.2, 0.2]),
        train_cfg=dict(
            assigner=dict(type='BipartiteMaxIoUAssigner'),
            sampler=dict(type='PseudoSampler'), smoothl1_beta=1.,
            allowed_border=-1, pos_weight=-1, neg_pos_ratio=3),
        test_cfg=dict(score_thr=0.01, nms_pre=400,
                      nms=dict(type='nms', iou_threshold=0.45),
                      min_bbox_size=0, max_per_img=200), **options))


MAPS = (12, 6, 3)
META = dict(img_shape=(96, 96), pad_shape=(96, 96), ori_shape=(192, 96),
            scale_factor=(1., 0.5))


def flat(maps, width):
    """(N, priors, width) in double precision, in the priors' order."""
    return torch.cat([
        m.permute(0, 2, 3, 1).reshape(len(m), -1, width) for m in maps
    ], 1).double().numpy()


def background_first(scores):
    """Caffe's order of classes; mmdet has the background last."""
    return np.concatenate([scores[..., -1:], scores[..., :-1]], -1)


def random_objects(rng, most, span):
    count = rng.integers(0, most + 1)
    corner = rng.uniform(0, span, (count, 2))
    side = rng.uniform(3, 60, (count, 2))
    boxes = np.concatenate([corner, np.minimum(corner + side, 96)], 1)
    return boxes.astype(np.float32), rng.integers(0, 5, count)


# Objects at their ease, piled upon each other, and none in many images.
@pytest.mark.parametrize('most, span', [(6, 80), (20, 15), (1, 60)])
def test_losses_and_targets_equal_caffe(most, span):
    model = head()
    rng = np.random.default_rng(most)
    priors = torch.cat(model.prior_generator.grid_priors(
        [(m, m) for m in MAPS], device='cpu'))
    empty = 0
    for _ in range(25):
        objects = [random_objects(rng, most, span) for _ in range(3)]
        empty += sum(not len(boxes) for boxes, _ in objects)
        gts = [InstanceData(bboxes=torch.as_tensor(b),
                            labels=torch.as_tensor(c)) for b, c in objects]
        scores, deltas = (
            [torch.randn(3, n * width, m, m) * 3
             for n, m in zip(model.num_base_priors, MAPS)]
            for width in (6, 4))
        got = model.loss_by_feat(scores, deltas, gts, [META] * 3)
        want = multibox_loss(
            background_first(flat(scores, 6)), flat(deltas, 4),
            priors.double().numpy(), [(b, c + 1) for b, c in objects])
        for kind, value in zip(('cls', 'bbox'), want):
            total = sum(got[f'loss_{kind}']).item()
            assert total == pytest.approx(value, rel=1e-5, abs=1e-6)
        check_targets(model, priors, gts, objects)
    assert empty


def check_targets(model, priors, gts, objects):
    anchors, flags = model.get_anchors([(m, m) for m in MAPS],
                                       [META] * len(gts), device='cpu')
    labels, _, boxes, weights, matched = model.get_targets(
        anchors, flags, gts, [META] * len(gts))
    total = 0
    for i, (objs, classes) in enumerate(objects):
        found = match(iou(priors.numpy(), objs))
        total += (found >= 0).sum()
        at = found >= 0
        got = torch.cat([level[i] for level in labels]).numpy()
        assert (got[at] == classes[found[at]]).all() and (got[~at] == 5).all()
        got = torch.cat([level[i] for level in boxes]).numpy()
        want = encode(priors.double().numpy()[at], objs[found[at]])
        assert np.allclose(got[at], want, rtol=1e-5, atol=1e-5)
        got = torch.cat([level[i] for level in weights]).numpy()
        assert (got == at[:, None]).all()
    assert matched == max(1, total)


def test_a_batch_without_objects_costs_nothing_and_has_a_gradient():
    model = head()
    features = [torch.randn(2, 8, m, m) for m in MAPS]
    gts = [InstanceData(bboxes=torch.zeros(0, 4),
                        labels=torch.zeros(0, dtype=torch.long))] * 2
    losses = model.loss_by_feat(*model(features), gts, [META] * 2)
    total = sum(map(sum, losses.values()))
    assert total == 0
    total.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_priors_outside_of_the_image_learn(config):
    """Three of the last scale's four cells begin where the image has ended."""
    model = build_network(
        config('dsod300_vovnet-27-slim_voc0712')).bbox_head
    meta = dict(img_shape=(300, 300), pad_shape=(300, 300))
    sizes = [(m, m) for m in VOVNET_MAPS]
    _, theirs = SSDHead.get_anchors(model, sizes, [meta], device='cpu')
    assert theirs[0][-1].tolist() == [True] * 4 + [False] * 12
    anchors, flags = model.get_anchors(sizes, [meta], device='cpu')
    assert all(level.all() for level in flags[0])
    # A box on one of them, which no other prior overlaps as much.
    box = anchors[0][-1][15:]
    objects = InstanceData(bboxes=box, labels=torch.tensor([3]))
    labels, *_ = model.get_targets(anchors, flags, [objects], [meta])
    assert labels[-1][0, 15] == 3


@pytest.mark.parametrize('most, thr', [(200, 0.01), (20, 0.3)])
def test_detections_equal_numpy(most, thr):
    model = head()
    rng = np.random.default_rng(0)
    cfg = copy.deepcopy(model.test_cfg)
    cfg.update(max_per_img=most, score_thr=thr)
    priors = torch.cat(model.prior_generator.grid_priors(
        [(m, m) for m in MAPS], device='cpu')).double().numpy()
    for _ in range(8):
        scores, deltas = (
            [torch.as_tensor(rng.normal(0, 2, (1, n * w, m, m)).astype('f4'))
             for n, m in zip(model.num_base_priors, MAPS)] for w in (6, 4))
        got = model.predict_by_feat(scores, deltas, batch_img_metas=[META],
                                    cfg=cfg, rescale=True)[0]
        boxes, p, classes = detect(
            background_first(flat(scores, 6)[0]), flat(deltas, 4)[0], priors,
            (96, 96), thr, 0.45, most)
        assert len(p) > most / 10
        assert np.array_equal(got.labels.numpy() + 1, classes)
        assert np.abs(got.scores.numpy() - p).max() < 1e-5
        # scale_factor: width as it is, height halved.
        boxes *= [1, 2, 1, 2]
        assert np.abs(got.bboxes.numpy() - boxes).max() < 1e-2


def test_nms_pre_is_the_number_of_boxes_of_each_class():
    model = head(num_classes=2)
    scores = [torch.zeros(1, n * 3, m, m)
              for n, m in zip(model.num_base_priors, MAPS)]
    # Class 0 is likeliest in the priors of the first level, 1 in the last.
    scores[0].view(1, -1, 3, 12, 12)[:, :, 0] = 5
    scores[2].view(1, -1, 3, 3, 3)[:, :, 1] = 5
    deltas = [torch.zeros(1, n * 4, m, m)
              for n, m in zip(model.num_base_priors, MAPS)]
    cfg = copy.deepcopy(model.test_cfg)
    cfg.update(nms_pre=7, min_bbox_size=-1)
    found = model.predict_by_feat(scores, deltas, batch_img_metas=[META],
                                  cfg=cfg, with_nms=False)[0]
    assert found.labels.bincount().tolist() == [7, 7]
    assert (found.scores > 0.9).all()


def test_a_prediction_of_the_whole_detector(config):
    """mmdet's own SSDHead ends here in an AttributeError."""
    cfg = config('dsod300_vovnet-27-slim_voc0712')
    cfg.model.backbone.arch = dict(
        num_blocks=(1, ) * 4, num_layers=1, stage_channels=(4, ) * 4,
        aggregated_channels=(128, 256, 384, 512), stem_channels=(4, 4, 4))
    network = build_network(cfg).eval()
    sample = DetDataSample(metainfo=dict(
        img_shape=(300, 300), ori_shape=(600, 300), scale_factor=(1., 0.5),
        batch_input_shape=(300, 300), pad_shape=(300, 300)))
    with torch.inference_mode():
        found = network.predict(torch.randn(1, 3, 300, 300), [sample])
    found = found[0].pred_instances
    assert len(found) == 200
    high = torch.tensor([300., 600.] * 2)
    assert ((found.bboxes >= 0) & (found.bboxes <= high)).all()


def test_downsample_halves_and_doubles():
    """Half of a scale's channels are reused: they read pooled pixels."""
    layer = DSODDownsample(4, 6, dict(type='BN'), dict(type='ReLU')).eval()
    x = torch.randn(1, 4, 5, 5)
    y = x.clone()
    y[..., 1, 1] = -100  # the least of its window: no change to the pool
    x[..., 1, 1] = -50
    a, b = layer(x), layer(y)
    assert a.shape == (1, 6, 3, 3)
    assert torch.equal(a[:, :3], b[:, :3])


def test_only_the_predictors_norms_do_not_decay(config):
    """By the official solver: decay_mult 0 for their scale and shift."""
    cfg = config('dsod300_vovnet-27-slim_voc0712')
    network = build_network(cfg)
    optimizer = build_optim_wrapper(network, cfg.optim_wrapper).optimizer
    decay = {id(p): group['weight_decay']
             for group in optimizer.param_groups for p in group['params']}
    for name, parameter in network.named_parameters():
        spared = name.startswith('bbox_head') and '.bn.' in name
        assert decay[id(parameter)] == (0 if spared else 5e-4), name


def test_losses_of_the_papers_detector_equal_caffe(config):
    """All 8108 priors of DSOD300 and 20 classes, those outside included."""
    model = build_network(
        config('dsod300_vovnet-27-slim_voc0712')).bbox_head
    meta = dict(img_shape=(300, 300), pad_shape=(300, 300))
    priors = priors_of(config('dsod300_vovnet-27-slim_voc0712'), VOVNET_MAPS)
    rng = np.random.default_rng(0)
    scores, deltas = (
        [torch.randn(3, n * w, m, m)
         for n, m in zip(model.num_base_priors, VOVNET_MAPS)]
        for w in (21, 4))
    objects = []
    for count in (0, 3, 12):
        corner = rng.uniform(0, 280, (count, 2))
        boxes = np.concatenate([corner, np.minimum(
            corner + rng.uniform(8, 250, (count, 2)), 300)], 1)
        objects.append((boxes.astype(np.float32), rng.integers(0, 20, count)))
    got = model.loss_by_feat(
        scores, deltas,
        [InstanceData(bboxes=torch.as_tensor(b), labels=torch.as_tensor(c))
         for b, c in objects], [meta] * 3)
    want = multibox_loss(
        background_first(flat(scores, 21)), flat(deltas, 4), priors.numpy(),
        [(b, c + 1) for b, c in objects])
    for kind, value in zip(('cls', 'bbox'), want):
        assert sum(got[f'loss_{kind}']).item() == pytest.approx(
            value, rel=1e-5)


class Operators(TorchDispatchMode):
    """Notes what is run, and whether it looks for true elements."""

    def __init__(self):
        super().__init__()
        self.looks = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix('aten::')
        if name == 'nonzero' or name == 'index' and any(
                i is not None and i.dtype == torch.bool for i in args[1]):
            self.looks.append(name)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize('most', [0, 20])
def test_candidates_are_looked_for_once(most):
    """Each look at how many there are waits for a GPU."""
    scores = torch.rand(50, 4)
    with Operators() as run:
        best, classes, boxes = select_candidates(scores, 0.3, most)
    assert run.looks == ['nonzero']
    expected = [(i, c) for c in range(4) for i in sorted(
        range(50), key=lambda i: -scores[i, c])[:most or 50]
        if scores[i, c] > 0.3]
    assert sorted(zip(boxes.tolist(), classes.tolist())) == sorted(expected)
    assert torch.equal(best, scores[boxes, classes])
