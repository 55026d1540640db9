"""detectron2's detectors in straight lines, from their description.

Written from the papers and the documented conventions of detectron2 and
AdelaiDet, not from ``vovnet`` or mmdet: names are spelt out here once more,
weights are random, and everything is computed right from the state dict. Only
NMS is torchvision's.
"""
import math

import foreign
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms

NET = foreign.NETS['19-slim-dw']
WIDTH, CLASSES = 128, 80
MEAN = torch.tensor([103.53, 116.28, 123.675])[:, None, None]  # BGR


def random_detector(kind, fc=1024):
    """What detectron2 saves of 'faster', 'mask' or 'fcos'."""
    torch.manual_seed(0)
    state = {f'backbone.bottom_up.{key}': value
             for key, value in foreign.random_weights(
                 NET, foreign.AUTHORS, counters=False).items()}
    # Images are not divided by their deviation, the weights see to that.
    state['backbone.bottom_up.stem.stem_1/conv.weight'] /= 58

    def layer(name, *shape, gain=1., bias=0.):
        fan_in = math.prod(shape[1:])
        state[f'{name}.weight'] = torch.randn(shape) * gain * (
            2 / fan_in)**0.5
        state[f'{name}.bias'] = torch.randn(
            shape[1] if name.endswith('deconv') else shape[0]) / 10 + bias

    stages = (3, 4, 5) if kind == 'fcos' else (2, 3, 4, 5)
    for stage in stages:
        layer(f'backbone.fpn_lateral{stage}', WIDTH, NET.out[stage - 2], 1, 1,
              gain=0.3)
        layer(f'backbone.fpn_output{stage}', WIDTH, WIDTH, 3, 3, gain=0.7)
    state['pixel_mean'] = MEAN.clone()
    state['pixel_std'] = torch.ones(3, 1, 1)
    if kind == 'fcos':
        for level in (6, 7):
            layer(f'backbone.top_block.p{level}', WIDTH, WIDTH, 3, 3)
        head = 'proposal_generator.fcos_head'
        for tower in ('cls', 'bbox'):
            for i in range(4):
                layer(f'{head}.{tower}_tower.{3 * i}', WIDTH, WIDTH, 3, 3)
                norm = f'{head}.{tower}_tower.{3 * i + 1}'
                state[f'{norm}.weight'] = torch.empty(WIDTH).uniform_(.5, 1.5)
                state[f'{norm}.bias'] = torch.randn(WIDTH) / 10
        layer(f'{head}.cls_logits', CLASSES, WIDTH, 3, 3, bias=-5.5)
        layer(f'{head}.bbox_pred', 4, WIDTH, 3, 3, gain=0.7, bias=1.)
        layer(f'{head}.ctrness', 1, WIDTH, 3, 3)
        for i in range(5):
            state[f'{head}.scales.{i}.scale'] = torch.empty(1).uniform_(1, 2)
        return state
    head = 'proposal_generator.rpn_head'
    layer(f'{head}.conv', WIDTH, WIDTH, 3, 3)
    layer(f'{head}.objectness_logits', 3, WIDTH, 1, 1)
    layer(f'{head}.anchor_deltas', 12, WIDTH, 1, 1, gain=0.1)
    for i, size in enumerate((32, 64, 128, 256, 512)):
        state[f'proposal_generator.anchor_generator.cell_anchors.{i}'] = \
            cell_anchors(size)
    layer('roi_heads.box_head.fc1', fc, WIDTH * 49)
    layer('roi_heads.box_head.fc2', fc, fc)
    layer('roi_heads.box_predictor.cls_score', CLASSES + 1, fc, gain=2.)
    layer('roi_heads.box_predictor.bbox_pred', 4 * CLASSES, fc, gain=0.5)
    if kind == 'mask':
        for i in range(4):
            layer(f'roi_heads.mask_head.mask_fcn{i + 1}', 256,
                  256 if i else WIDTH, 3, 3)
        # A transposed convolution's weight has the input's channels first.
        layer('roi_heads.mask_head.deconv', 256, 256, 2, 2)
        layer('roi_heads.mask_head.predictor', CLASSES, 256, 1, 1)
    return state


def cell_anchors(size):
    """Corners around (0, 0): the area is size^2, the ratio height / width."""
    rows = []
    for ratio in (0.5, 1.0, 2.0):
        w = size / ratio**0.5
        h = w * ratio
        rows.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(rows)


def conv(state, name, x, stride=1):
    weight = state[f'{name}.weight']
    return F.conv2d(x, weight, state[f'{name}.bias'], stride,
                    weight.shape[-1] // 2)


def prepare(image):
    """(3, H, W) BGR bytes, less their mean, padded with 0 to 32s."""
    x = image.float() - MEAN
    height, width = x.shape[1:]
    return F.pad(x, (0, -width % 32, 0, -height % 32))[None]


def pyramid(state, x, stages):
    """Maps of the stages' strides, without what comes on top."""
    maps = foreign.evaluate(
        {key.removeprefix('backbone.bottom_up.'): value
         for key, value in state.items()}, NET, foreign.AUTHORS, x)
    outs, above = [], None
    for stage in reversed(stages):
        lateral = conv(state, f'backbone.fpn_lateral{stage}',
                       maps[stage - 2])
        if above is not None:
            lateral = lateral + above.repeat_interleave(2, 2) \
                .repeat_interleave(2, 3)
        above = lateral
        outs.insert(0, conv(state, f'backbone.fpn_output{stage}', lateral))
    return outs


def move(boxes, deltas, weights):
    """Move corners by (dx, dy, dw, dh) / weights."""
    dx, dy, dw, dh = (deltas / torch.tensor(weights)).unbind(-1)
    x1, y1, x2, y2 = boxes.unbind(-1)
    w, h = x2 - x1, y2 - y1
    limit = math.log(1000 / 16)
    x, y = (x1 + x2) / 2 + dx * w, (y1 + y2) / 2 + dy * h
    w, h = w * dw.clamp(max=limit).exp(), h * dh.clamp(max=limit).exp()
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)


def clip(boxes, size):
    height, width = size
    limit = torch.tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limit)


def rpn_outputs(state, maps):
    """Objectness and deltas, (H, W, 3) and (H, W, 3, 4) of each map."""
    head = 'proposal_generator.rpn_head'
    for x in maps:
        hidden = conv(state, f'{head}.conv', x).relu()
        logits = conv(state, f'{head}.objectness_logits', hidden)[0]
        deltas = conv(state, f'{head}.anchor_deltas', hidden)[0]
        yield (logits.permute(1, 2, 0),
               deltas.permute(1, 2, 0).unflatten(-1, (3, 4)))


def proposals(state, maps, size, before, after):
    """The boxes that RPN proposes, the best first."""
    boxes, scores, levels = [], [], []
    for level, (logits, deltas) in enumerate(rpn_outputs(state, maps)):
        stride = 4 * 2**level
        ys, xs = (torch.arange(n) * stride for n in logits.shape[:2])
        corner = torch.stack(torch.meshgrid(xs, ys, indexing='xy'), -1)
        anchors = corner.repeat(1, 1, 2)[:, :, None] + cell_anchors(8 * stride)
        moved = move(anchors, deltas, (1., 1., 1., 1.)).reshape(-1, 4)
        best = logits.flatten().sort(descending=True).indices[:before]
        boxes.append(clip(moved[best], size))
        scores.append(logits.flatten()[best])
        levels.append(torch.full_like(best, level))
    boxes, scores, levels = map(torch.cat, (boxes, scores, levels))
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, levels = boxes[real], scores[real], levels[real]
    return boxes[batched_nms(boxes, scores, levels, 0.7)[:after]]


def pool(maps, box, out):
    """RoIAlign (aligned): a grid of points in each of out x out bins.

    A bin has as many points per side as it has pixels, rounded up; each is
    the bilinear mixture of four pixels, whose centers are at .5.
    """
    w, h = (box[2:] - box[:2]).tolist()
    level = math.floor(4 + math.log2((w * h)**0.5 / 224 + 2.2e-16))
    level = min(max(level, 2), 5)
    x = maps[level - 2][0]
    start, step = box[:2] / 2**level - 0.5, \
        torch.tensor([w, h]) / 2**level / out
    axes = []
    for axis in (0, 1):
        points = math.ceil(step[axis])
        where = (torch.arange(out * points) + 0.5) / points
        where = start[axis] + where * step[axis]
        axes.append((where.clamp(0, x.shape[2 - axis] - 1), points))
    (xs, nx), (ys, ny) = axes
    x0, y0 = xs.long(), ys.long()
    x1 = (x0 + 1).clamp(max=x.shape[2] - 1)
    y1 = (y0 + 1).clamp(max=x.shape[1] - 1)
    fx, fy = xs - x0, (ys - y0)[:, None]
    top = x[:, y0][:, :, x0] * (1 - fx) + x[:, y0][:, :, x1] * fx
    low = x[:, y1][:, :, x0] * (1 - fx) + x[:, y1][:, :, x1] * fx
    mixed = top * (1 - fy) + low * fy
    return mixed.unflatten(1, (out, ny)).unflatten(3, (out, nx)).mean((2, 4))


def linear(state, name, x):
    return x @ state[f'{name}.weight'].T + state[f'{name}.bias']


def box_outputs(state, maps, boxes):
    """Probabilities (N, 81), the background last, and boxes (N, 80, 4)."""
    pooled = torch.stack([pool(maps, box, 7) for box in boxes]).flatten(1)
    x = linear(state, 'roi_heads.box_head.fc1', pooled).relu()
    x = linear(state, 'roi_heads.box_head.fc2', x).relu()
    probabilities = linear(
        state, 'roi_heads.box_predictor.cls_score', x).softmax(1)
    deltas = linear(state, 'roi_heads.box_predictor.bbox_pred', x)
    return probabilities, move(
        boxes[:, None], deltas.unflatten(1, (CLASSES, 4)),
        (10., 10., 5., 5.))


def mask_logits(state, maps, boxes, labels):
    """28 x 28 logits of each box, for its class."""
    x = torch.stack([pool(maps, box, 14) for box in boxes])
    for i in range(4):
        x = conv(state, f'roi_heads.mask_head.mask_fcn{i + 1}', x).relu()
    head = 'roi_heads.mask_head.deconv'
    x = F.conv_transpose2d(
        x, state[f'{head}.weight'], state[f'{head}.bias'], 2).relu()
    x = conv(state, 'roi_heads.mask_head.predictor', x)
    return x[torch.arange(len(x)), labels]


def paste(logits, box, size):
    """A box's mask on the image: probability at the pixels' centres."""
    height, width = size
    x = (torch.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
    y = (torch.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing='xy'), -1)[None]
    return F.grid_sample(logits.sigmoid()[None, None], grid,
                         align_corners=False)[0, 0] >= 0.5


def detect_rcnn(state, image, before, after):
    """Boxes, scores, labels and, if there is a head, masks of an image."""
    size = image.shape[1:]
    maps = pyramid(state, prepare(image), (2, 3, 4, 5))
    found = proposals(state, [*maps, maps[-1][:, :, ::2, ::2]], size, before,
                      after)
    probabilities, boxes = box_outputs(state, maps, found)
    which, labels = (probabilities[:, :-1] > 0.05).nonzero().T
    boxes, scores = clip(boxes[which, labels], size), \
        probabilities[which, labels]
    keep = batched_nms(boxes, scores, labels, 0.5)[:100]
    boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
    if 'roi_heads.mask_head.deconv.weight' not in state:
        return boxes, scores, labels, None
    masks = [paste(logits, box, size) for logits, box in zip(
        mask_logits(state, maps, boxes, labels), boxes)]
    return boxes, scores, labels, torch.stack(masks)


def fcos_outputs(state, x):
    """Logits, distances in strides and centerness of each level."""
    maps = pyramid(state, x, (3, 4, 5))
    maps.append(conv(state, 'backbone.top_block.p6', maps[-1], 2))
    maps.append(conv(state, 'backbone.top_block.p7', maps[-1].relu(), 2))
    head = 'proposal_generator.fcos_head'
    for level, x in enumerate(maps):
        towers = []
        for tower in ('cls', 'bbox'):
            y = x
            for i in range(4):
                y = conv(state, f'{head}.{tower}_tower.{3 * i}', y)
                norm = f'{head}.{tower}_tower.{3 * i + 1}'
                y = F.group_norm(y, 32, state[f'{norm}.weight'],
                                 state[f'{norm}.bias']).relu()
            towers.append(y)
        scale = state[f'{head}.scales.{level}.scale']
        yield (conv(state, f'{head}.cls_logits', towers[0])[0],
               (conv(state, f'{head}.bbox_pred', towers[1])[0] * scale).relu(),
               conv(state, f'{head}.ctrness', towers[1])[0, 0])


def detect_fcos(state, image):
    """Boxes, scores and labels; the scores are roots, as AdelaiDet's."""
    boxes, scores, labels = [], [], []
    for level, (logits, distances, centre) in enumerate(
            fcos_outputs(state, prepare(image))):
        stride = 8 * 2**level
        which = (logits.sigmoid() > 0.05).nonzero()
        assert len(which) <= 1000
        label, y, x = which.T
        px, py = x * stride + stride // 2, y * stride + stride // 2
        left, top, right, bottom = distances[:, y, x] * stride
        boxes.append(torch.stack(
            (px - left, py - top, px + right, py + bottom), 1))
        scores.append((logits.sigmoid() * centre.sigmoid())[label, y, x]
                      .sqrt())
        labels.append(label)
    boxes, scores, labels = map(torch.cat, (boxes, scores, labels))
    # AdelaiDet clips and drops empty boxes after NMS, mmdet before.
    boxes = clip(boxes, image.shape[1:])
    real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, scores, labels = boxes[real], scores[real], labels[real]
    keep = batched_nms(boxes, scores, labels, 0.6)[:100]
    return boxes[keep], scores[keep], labels[keep]
