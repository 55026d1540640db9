"""RefineDet's head against numpy, written from the description of Caffe's."""
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from vovnet.models.dense_heads import RefineDetHead, RefineMultiBoxHead

STRIDES, CLASSES, SIZE = (8, 16, 32, 64), 4, 128
SHAPES = [(SIZE // s, SIZE // s) for s in STRIDES]
STDS = np.array([.1, .1, .2, .2])


def make_head(pos=.5, neg=.5, cls=RefineDetHead, **kwargs):
    multibox = dict(
        assigner=dict(type='BipartiteMaxIoUAssigner', pos_iou_thr=pos,
                      neg_iou_thr=neg),
        sampler=dict(type='PseudoSampler'), smoothl1_beta=1.,
        neg_pos_ratio=3, allowed_border=-1, pos_weight=-1)
    odm = ConfigDict(multibox, assigner=dict(
        type='BipartiteMaxIoUAssigner', pos_iou_thr=.5, neg_iou_thr=.5))
    return cls(**{**dict(
        num_classes=CLASSES, in_channels=(8, ) * 4, feat_channels=8,
        inter_planes=None,
        anchor_generator=dict(
            type='AnchorGenerator', strides=list(STRIDES), scales=[4.],
            ratios=[1., .5, 2.], center_offset=.5),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=list(STDS)),
        train_cfg=ConfigDict(arm=multibox, odm=odm),
        test_cfg=ConfigDict(
            score_thr=.01, nms_pre=1000, min_bbox_size=0, max_per_img=500,
            nms=dict(type='nms', iou_threshold=.45))), **kwargs})


@pytest.fixture(scope='module')
def head():
    return make_head()


def metas(n, scale=(1., 1.)):
    return [dict(img_shape=(SIZE, SIZE), pad_shape=(SIZE, SIZE),
                 scale_factor=scale) for _ in range(n)]


def random_maps(rng, n):
    """ARM scores and deltas, ODM scores and deltas, of n images."""
    return [[torch.from_numpy(rng.normal(0, std, (n, 3 * c, *shape)).astype(
        np.float32)) for shape in SHAPES]
        for c, std in ((2, 3.), (4, .7), (CLASSES + 1, 2.), (4, .7))]


def random_objects(rng, count):
    """Boxes that lie close together, tiny ones and large ones."""
    centers = rng.uniform(0, SIZE, (max(1, count // 4), 2))
    center = centers[rng.integers(len(centers), size=count)] + rng.normal(
        0, 6, (count, 2))
    half = np.exp(rng.uniform(np.log(2), np.log(60), (count, 2)))
    boxes = np.concatenate([center - half, center + half], 1)
    boxes = boxes.clip(0, SIZE).astype(np.float32)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2]).min(1) > 1]
    return InstanceData(
        bboxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(rng.integers(CLASSES, size=len(boxes))))


# The straight-line version, in float64.

def priors():
    """Per cell a square, a wide and a high box of four strides' area."""
    boxes = []
    for stride in STRIDES:
        for y in range(SIZE // stride):
            for x in range(SIZE // stride):
                for ratio in 1, 2, .5:  # width to height
                    w, h = 4 * stride * ratio**.5, 4 * stride / ratio**.5
                    cx, cy = (x + .5) * stride, (y + .5) * stride
                    boxes.append([cx - w / 2, cy - h / 2,
                                  cx + w / 2, cy + h / 2])
    return np.array(boxes)


def rows(maps, image, channels):
    """What the maps say about each anchor."""
    return np.concatenate([
        m[image].detach().numpy().astype(float).transpose(1, 2, 0).reshape(
            -1, channels) for m in maps])


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def center_size(boxes):
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def decode(boxes, deltas):
    center, size = center_size(boxes)
    deltas = deltas * STDS
    center = center + deltas[:, :2] * size
    size = size * np.exp(deltas[:, 2:])
    return np.concatenate([center - size / 2, center + size / 2], 1)


def encode(boxes, targets):
    center, size = center_size(boxes)
    goal, goal_size = center_size(targets)
    return np.concatenate(
        [(goal - center) / size, np.log(goal_size / size)], 1) / STDS


def iou(a, b):
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(
        a[..., :2], b[..., :2])
    both = sides.clip(0).prod(-1)
    return both / ((a[..., 2:] - a[..., :2]).prod(-1) +
                   (b[..., 2:] - b[..., :2]).prod(-1) - both)


def match(overlaps, threshold):
    """Index of each prior's object, -1 without."""
    matched = np.full(len(overlaps), -1)
    left = overlaps.copy()
    while left.size and left.max() > 1e-6:
        prior, gt = np.unravel_index(left.argmax(), left.shape)
        matched[prior] = gt
        left[prior], left[:, gt] = 0, 0
    if left.size:
        others = (matched < 0) & (overlaps.max(1) >= threshold)
        matched[others] = overlaps[others].argmax(1)
    return matched


def multibox(scores, deltas, boxes, overlaps, gts, labels, pos, neg, eligible):
    """Sums of one image: cross-entropy, smooth L1, matches."""
    matched = match(overlaps, pos)
    positive = matched >= 0
    if not positive.any():
        return 0., 0., 0
    nll = -np.log(softmax(scores))
    negative = ~positive & (overlaps.max(1) < neg) & eligible
    hardest = np.sort(nll[negative, -1])[::-1][:3 * positive.sum()]
    gt = matched[positive]
    error = np.abs(deltas[positive] - encode(boxes[positive], gts[gt]))
    smooth = np.where(error < 1, error**2 / 2, error - .5)
    own = nll[positive, labels[gt]]
    return own.sum() + hardest.sum(), smooth.sum(), positive.sum()


def expected_losses(maps, objects, pos=.5, neg=.5):
    """What Caffe's loss layers give for a batch."""
    sums = np.zeros((2, 3))
    # Ties (an object within two priors) fall as in single precision.
    anchors = priors().astype(np.float32)
    for i, gt in enumerate(objects):
        boxes, labels = gt.bboxes.numpy(), gt.labels.numpy()
        arm_cls, arm_reg, odm_cls, odm_reg = (
            rows(m, i, c) for m, c in zip(maps, (2, 4, CLASSES + 1, 4)))
        sums[0] += multibox(
            arm_cls, arm_reg, anchors.astype(float), iou(anchors, boxes),
            boxes.astype(float), np.zeros_like(labels), pos, neg, True)
        refined = decode(anchors.astype(float), arm_reg)
        sums[1] += multibox(
            odm_cls, odm_reg, refined, iou(refined, boxes.astype(float)),
            boxes.astype(float), labels, .5, .5,
            softmax(arm_cls)[:, 0] >= .01)
    return (sums[:, :2] / np.maximum(1, sums[:, 2:])).ravel()


def losses_of(head, maps, objects):
    losses = head.loss_by_feat(*maps, objects, metas(len(objects)))
    return torch.stack([sum(losses[f'{module}_loss_{kind}']).squeeze()
                        for module in ('arm', 'odm')
                        for kind in ('cls', 'bbox')])


@pytest.mark.parametrize('pos, neg', [(.5, .5), (.7, .3)])
def test_losses_equal_numpy(pos, neg):
    """60 batches of three images, each with up to 20 objects, or with none.
    """
    head, rng = make_head(pos, neg), np.random.default_rng(0)
    for _ in range(60):
        objects = [random_objects(rng, rng.choice([0, 1, 3, 8, 20]))
                   for _ in range(3)]
        maps = random_maps(rng, 3)
        assert losses_of(head, maps, objects).numpy() == pytest.approx(
            expected_losses(maps, objects, pos, neg), rel=1e-5, abs=1e-6)


def candidates(maps, image):
    """Boxes, decoded twice and clipped, and their scores for each class."""
    arm_cls, arm_reg, odm_cls, odm_reg = (
        rows(m, image, c) for m, c in zip(maps, (2, 4, CLASSES + 1, 4)))
    boxes = decode(decode(priors(), arm_reg), odm_reg).clip(0, SIZE)
    scores = softmax(odm_cls)[:, :-1]
    scores[softmax(arm_cls)[:, 0] < .01] = 0
    scores[(boxes[:, 2:] <= boxes[:, :2]).any(1)] = 0
    return boxes, scores


def expected_detections(maps, image):
    """Score, class and box of the best 500 behind NMS."""
    boxes, scores = candidates(maps, image)
    found = []
    for label in range(CLASSES):
        order = np.argsort(-scores[:, label])[:1000]
        order = order[scores[order, label] > .01]
        while len(order):
            best, order = order[0], order[1:]
            found.append((scores[best, label], label, *boxes[best]))
            order = order[iou(boxes[best][None], boxes[order])[0] <= .45]
    return np.array(sorted(found, reverse=True)[:500])


@pytest.mark.parametrize('scale', [(1., 1.), (.5, 2.)])
def test_detections_equal_numpy(head, scale):
    maps = random_maps(np.random.default_rng(0), 4)
    found = head.predict_by_feat(*maps, metas(4, scale), rescale=True)
    for i, instances in enumerate(found):
        expected = expected_detections(maps, i)
        assert len(expected) == len(instances) > 300
        assert (instances.labels.numpy() == expected[:, 1]).all()
        assert instances.scores.numpy() == pytest.approx(
            expected[:, 0], abs=1e-6)
        assert instances.bboxes.numpy() * np.tile(scale, 2) == pytest.approx(
            expected[:, 2:], abs=1e-3)


def test_each_class_sends_its_best_boxes_to_nms(head):
    maps = random_maps(np.random.default_rng(0), 1)
    cfg = ConfigDict(head.test_cfg, nms_pre=3)
    found, = head.predict_by_feat(*maps, metas(1), cfg, with_nms=False)
    scores = softmax(rows(maps[2], 0, CLASSES + 1))[:, :-1]
    scores[softmax(rows(maps[0], 0, 2))[:, 0] < .01] = 0
    for label in range(CLASSES):
        assert found.scores[found.labels == label].numpy() == pytest.approx(
            np.sort(scores[:, label])[:-4:-1], abs=1e-6)


def test_soft_nms_is_an_option(head):
    """COCO's: what overlaps a better box loses score instead of its place."""
    maps = random_maps(np.random.default_rng(0), 1)
    cfg = ConfigDict(
        head.test_cfg, score_thr=.2, max_per_img=5000, nms=dict(
            type='soft_nms', iou_threshold=.3, method='linear', min_score=.2))
    found, = head.predict_by_feat(*maps, metas(1), cfg)
    boxes, scores = candidates(maps, 0)
    expected = []
    for label in range(CLASSES):
        left, left_boxes = scores[:, label], boxes
        while left.size and left.max() > .2:
            best = left.argmax()
            expected.append((left[best], label))
            overlap = iou(left_boxes[best][None], left_boxes)[0]
            left = np.where(overlap > .3, left * (1 - overlap), left)
            left, left_boxes = (np.delete(x, best, 0)
                                for x in (left, left_boxes))
    expected = np.array(sorted(expected, reverse=True))
    assert len(found) == len(expected) > 100
    assert found.scores.numpy() == pytest.approx(expected[:, 0], abs=1e-5)


# What is easily done wrong.

def one_object():
    return InstanceData(bboxes=torch.tensor([[20., 24., 62., 70.]]),
                        labels=torch.tensor([2]))


def test_positives_stay_whatever_the_arm_says(head):
    maps = random_maps(np.random.default_rng(0), 1)
    for level in maps[0]:
        level[:, 0::2], level[:, 1::2] = -99, 99  # background everywhere
    losses = losses_of(head, maps, [one_object()])
    refined = decode(priors(), rows(maps[1], 0, 4))
    positive = match(iou(refined, one_object().bboxes.numpy().astype(float)),
                     .5) == 0
    nll = -np.log(softmax(rows(maps[2], 0, CLASSES + 1))[positive, 2])
    assert losses[2].item() == pytest.approx(nll.mean(), rel=1e-5)
    assert losses[3] > 0


@pytest.mark.parametrize('probability, counts',
                         [(.0099, False), (.0101, True)])
def test_easy_negatives_are_not_mined(head, probability, counts):
    """The hardest negative of all counts if the ARM finds it hard as well."""
    maps = random_maps(np.random.default_rng(0), 1)
    # The first square of the last cell of level 1, far from the object.
    maps[0][0][0, :2, -1, -1] = torch.tensor(
        [probability, 1 - probability]).log()
    maps[1][0][0, :4, -1, -1] = 0
    maps[2][0][0, :CLASSES + 1, -1, -1] = torch.tensor([30., 0, 0, 0, 0])
    maps[2][0].requires_grad_()
    losses_of(head, maps, [one_object()])[2].backward()
    grad = maps[2][0].grad[0, :CLASSES + 1, -1, -1]
    assert bool(grad.any()) == counts


def test_anchors_pass_no_gradient_to_the_arm(head):
    maps = random_maps(np.random.default_rng(0), 2)
    for level in sum(maps, []):
        level.requires_grad_()
    losses = head.loss_by_feat(*maps, [one_object()] * 2, metas(2))
    arm, odm = (sum(sum(losses[f'{name}_loss_{kind}'])
                    for kind in ('cls', 'bbox')) for name in ('arm', 'odm'))
    odm.backward()
    assert all(m.grad is None for m in maps[0] + maps[1])
    assert all(any(m.grad.any() for m in ms) for ms in maps[2:])
    arm.backward()
    assert all(any(m.grad.any() for m in ms) for ms in maps[:2])


def test_images_without_objects_contribute_nothing(head):
    rng = np.random.default_rng(0)
    nothing = random_objects(rng, 0)
    maps = random_maps(rng, 3)
    for level in sum(maps, []):
        level.requires_grad_()
    mixed = losses_of(head, maps, [nothing, one_object(), nothing])
    alone = losses_of(head, [[m[1:2] for m in ms] for ms in maps],
                      [one_object()])
    assert mixed.tolist() == pytest.approx(alone.tolist(), rel=1e-6)
    mixed.sum().backward()
    for level in sum(maps, []):
        assert not level.grad[[0, 2]].any()
        level.grad = None
    none = losses_of(head, maps, [nothing] * 3)
    none.sum().backward()
    assert none.tolist() == [0] * 4
    assert all(m.grad is not None and not m.grad.any()
               for m in sum(maps, []))


def test_refined_anchors_are_not_clipped(head):
    maps = random_maps(np.random.default_rng(0), 2)
    refined = head.arm_rpn_head.refine_anchors(maps[1])
    for i, image in enumerate(refined):
        expected = decode(priors(), rows(maps[1], i, 4))
        assert expected.min() < 0 and expected.max() > SIZE
        assert torch.cat(image).numpy() == pytest.approx(expected, abs=1e-3)


# Modules.

def predictor(branch):
    conv, = (m for m in branch.modules() if isinstance(m, torch.nn.Conv2d))
    return conv


def test_every_module_has_its_initial_deviation():
    torch.manual_seed(0)
    head = make_head(in_channels=(64, ) * 4, feat_channels=64,
                     inter_planes=64)
    head.init_weights()
    for module in head.arm_rpn_head, head.odm_head:
        for block in module.inter_blocks:
            convs = [m for m in block.modules()
                     if isinstance(m, torch.nn.Conv2d)]
            assert len(convs) == 4
            for conv in convs:
                assert conv.weight.std().item() == pytest.approx(.01, rel=.05)
        for branch in *module.cls_convs, *module.reg_convs:
            conv = predictor(branch)
            # Caffe's xavier: uniform, as wide as the root of 3 / inputs.
            bound = (3 / (9 * 256))**.5
            assert conv.weight.abs().max().item() == pytest.approx(
                bound, rel=.01) and conv.weight.abs().max() <= bound
            assert not conv.bias.any()


def test_both_predictors_see_the_residual_block():
    """1x1, 3x3, 1x1 beside a 1x1, though 1024 channels meet 1024."""
    torch.manual_seed(0)
    module = make_head(
        cls=RefineMultiBoxHead, in_channels=(16, ) * 4, inter_planes=4,
        feat_channels=0, train_cfg=None).eval()
    for p in module.parameters():
        torch.nn.init.normal_(p, std=.3)
    maps = [torch.randn(2, 16, *shape) for shape in SHAPES]
    f = torch.nn.functional
    for i, (x, scores, deltas) in enumerate(zip(maps, *module(maps))):
        block = module.inter_blocks[i]

        def norm(y, bn):
            return f.batch_norm(y, bn.running_mean, bn.running_var, bn.weight,
                                bn.bias)

        y = norm(f.conv2d(x, block.conv1.weight), block.bn1).relu()
        y = norm(f.conv2d(y, block.conv2.weight, padding=1), block.bn2).relu()
        y = norm(f.conv2d(y, block.conv3.weight), block.bn3)
        conv, bn = block.downsample
        y = (y + norm(f.conv2d(x, conv.weight), bn)).relu()
        for found, branch in ((scores, module.cls_convs[i]),
                              (deltas, module.reg_convs[i])):
            conv = predictor(branch)
            torch.testing.assert_close(
                found, f.conv2d(y, conv.weight, conv.bias, padding=1))


def test_levels_must_agree():
    with pytest.raises(ValueError, match=r'RefineMultiBoxHead: .*3 levels.*4'):
        make_head(in_channels=(8, 8, 8))
