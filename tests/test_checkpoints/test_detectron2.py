"""Detectors of detectron2, beside straight lines from their description."""
import functools
import re
import sys
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torchvision.models import _meta

sys.path.insert(0, str(Path(__file__).parent))
import detectron2_reference as d2

from vovnet.checkpoints import (
    Normalization,
    convert_detectron2,
    get_state_dict,
    load_detectron2,
    load_file,
    load_strict,
    read_metafiles,
    read_weights,
)
from vovnet.utils.errors import UserError

ROOT = Path(__file__).parents[2]
FC = 256  # instead of 1024, to be quick
SLIM = dict(backbone=dict(arch='V2-19-slim-dw'),
            neck=dict(in_channels=[112, 256, 384, 512]),
            roi_head=dict(bbox_head=dict(fc_out_channels=FC)))
CONFIGS = dict(
    faster=('faster_rcnn/faster-rcnn_vovnetv2-19_fpnlite', SLIM),
    mask=('mask_rcnn/mask-rcnn_vovnetv2-19_fpnlite', SLIM),
    fcos=('fcos/fcos_vovnetv2-39_fpn_gn-head', dict(
        backbone=SLIM['backbone'],
        neck=dict(in_channels=[256, 384, 512], out_channels=128),
        bbox_head=dict(in_channels=128, feat_channels=128))))
BEFORE, AFTER = 200, 30  # proposals, to be quick


def read_config(kind):
    name, changes = CONFIGS[kind]
    cfg = Config.fromfile(str(ROOT / f'configs/{name}_d2-3x_coco.py'))
    cfg.merge_from_dict(dict(model=changes))
    if kind != 'fcos':
        cfg.model.test_cfg.rpn.update(nms_pre=BEFORE, max_per_img=AFTER)
    return cfg


@functools.cache
def file_of(kind):
    return d2.random_detector(kind, FC)


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model).eval()


class Pair:
    """A detector of detectron2 and what became of it."""

    def __init__(self, kind):
        self.kind = kind
        self.state = file_of(kind)
        self.cfg = read_config(kind)
        self.model = build(self.cfg)
        self.found = load_detectron2(
            self.model, dict(model=self.state, iteration=1), 'd2.pth')
        torch.manual_seed(1)
        self.image = torch.randint(0, 256, (3, 100, 140), dtype=torch.uint8)

    def detect(self):
        """Boxes, scores, labels and masks, by mmdet's own test step."""
        meta = dict(img_shape=(100, 140), ori_shape=(100, 140),
                    scale_factor=(1., 1.), batch_input_shape=(128, 160))
        with torch.inference_mode():
            found, = self.model.test_step(dict(
                inputs=[self.image],
                data_samples=[DetDataSample(metainfo=meta)]))
        found = found.pred_instances
        return (found.bboxes, found.scores, found.labels,
                found.get('masks', None))

    def maps(self):
        """The pyramid, of mmdet and of the straight lines."""
        x = d2.prepare(self.image)
        stages = (3, 4, 5) if self.kind == 'fcos' else (2, 3, 4, 5)
        with torch.inference_mode():
            return self.model.extract_feat(x), d2.pyramid(
                self.state, x, stages)


pair_of = functools.cache(Pair)


@pytest.fixture(params=list(CONFIGS))
def pair(request):
    return pair_of(request.param)


@pytest.fixture
def mask():
    return pair_of('mask')


def close(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1)


def test_every_tensor_is_accounted_for(pair):
    found, state = pair.found, pair.state
    backbone = [k for k in state if k.startswith('backbone.bottom_up.')]
    assert len(backbone) == len(found.backbone.state_dict)
    assert sorted([*backbone, *found.renamed, *found.compared]) == \
        sorted(state)
    assert not found.left_out
    own = pair.model.state_dict()
    names = {n for n in own if not n.startswith('backbone.')}
    assert set(found.renamed.values()) == names
    for theirs, ours in found.renamed.items():
        assert torch.equal(own[ours].flatten(), state[theirs].flatten())


def test_same_images_and_pyramid(pair):
    """BGR less the mean, std 1, zeros on the border; FPN and what is above."""
    x = pair.model.data_preprocessor(
        dict(inputs=[pair.image], data_samples=[DetDataSample()]))['inputs']
    assert torch.equal(x, d2.prepare(pair.image))
    ours, theirs = pair.maps()
    for a, b in zip(ours, theirs):
        close(a, b)
    if pair.kind == 'fcos':
        top = d2.conv(pair.state, 'backbone.top_block.p6', theirs[-1], 2)
        close(ours[3], top)
        close(ours[4], d2.conv(
            pair.state, 'backbone.top_block.p7', top.relu(), 2))
    else:
        close(ours[4], theirs[-1][:, :, ::2, ::2])


def test_same_detections(pair):
    boxes, scores, labels, masks = pair.detect()
    with torch.inference_mode():
        if pair.kind == 'fcos':
            theirs = *d2.detect_fcos(pair.state, pair.image), None
            scores = scores.sqrt()
        else:
            theirs = d2.detect_rcnn(pair.state, pair.image, BEFORE, AFTER)
    assert len(boxes) > 20 and len(labels.unique()) > 3
    assert torch.equal(labels, theirs[2])
    close(boxes, theirs[0], 1e-3)
    close(scores, theirs[1])
    if pair.kind == 'mask':
        assert masks.any((1, 2)).float().mean() > 0.5
        # A probability of just a half may fall on either side.
        assert (masks != theirs[3]).float().mean() < 1e-4


def test_same_anchors_and_rpn(mask):
    """Around multiples of the stride, each ratio in turn."""
    ours, _ = mask.maps()
    head = mask.model.rpn_head
    with torch.inference_mode():
        logits, deltas = head(ours)
        theirs = list(d2.rpn_outputs(mask.state, ours))
    for a, b, (c, d) in zip(logits, deltas, theirs):
        close(a[0].permute(1, 2, 0), c)
        close(b[0].permute(1, 2, 0), d.flatten(-2))
    anchors = head.prior_generator.grid_priors([(2, 3)] * 5, device='cpu')
    for level, rows in enumerate(anchors):
        stride = 4 * 2**level
        # Row by row, and three at each place.
        for place, (x, y) in enumerate(
                [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]):
            corner = torch.tensor([x, y, x, y]) * stride
            close(rows[3 * place:3 * place + 3],
                  d2.cell_anchors(8 * stride) + corner)


def test_same_decoding_of_deltas(mask):
    torch.manual_seed(0)
    boxes = torch.rand(50, 4) * 50
    boxes[:, 2:] += boxes[:, :2]
    # mmdet also bounds how far a box may shrink, by as much as growth.
    deltas = (torch.randn(50, 4) * 3).clamp(min=-4)
    deltas[0] = 30  # beyond the largest growth that both allow
    for head, weights in ((mask.model.rpn_head, (1., 1., 1., 1.)),
                          (mask.model.roi_head.bbox_head,
                           (10., 10., 5., 5.))):
        ours = head.bbox_coder.decode(boxes, deltas)
        close(ours, d2.move(boxes, deltas, weights), 1e-5)


@pytest.mark.parametrize('size', [7, 14])
def test_same_points_are_pooled(size, mask):
    """Levels by the root of the area, RoIAlign with no shift of a pixel."""
    ours, _ = mask.maps()
    pool = mask.model.roi_head.bbox_roi_extractor if size == 7 else \
        mask.model.roi_head.mask_roi_extractor
    boxes = torch.tensor([
        [3.3, 7.1, 20.9, 30.2], [0., 0., 140., 100.],
        [60.5, 20., 139.9, 99.], [5., 5., 5.2, 60.]])
    # Large enough for the coarser maps, which the image's own boxes are not.
    boxes = torch.cat((boxes, torch.tensor([
        [10., 10., 240., 250.], [0., 0., 470., 460.], [0., 0., 900., 900.]])))
    rois = torch.cat((torch.zeros(len(boxes), 1), boxes), 1)
    big = [torch.randn(1, 128, 1024 // s, 1024 // s) for s in (4, 8, 16, 32)]
    assert [2, 3, 4, 5] == sorted({
        int((2 + ((b[2] - b[0]) * (b[3] - b[1])).sqrt().div(56).log2())
            .floor().clamp(2, 5)) for b in boxes})
    for maps in (ours, big):
        chosen = boxes[:4] if maps is ours else boxes
        close(pool(maps[:4], rois[:len(chosen)]),
              torch.stack([d2.pool(maps, box, size) for box in chosen]))


def test_same_classes():
    """COCO's 80 in the order of their ids, the background last."""
    names = [n for n in _meta._COCO_CATEGORIES
             if n not in ('__background__', 'N/A')]
    assert list(CocoDataset.METAINFO['classes']) == names


def test_centermask_without_its_masks():
    """Its box branch is FCOS; every other tensor is listed."""
    state = file_of('fcos')
    masks = {f'roi_heads.{name}': torch.ones(1) for name in (
        'mask_head.mask_fcn1.weight', 'maskiou_head.maskiou.bias')}
    model = build(read_config('fcos'))
    found = load_detectron2(model, {**state, **masks}, 'centermask.pth')
    assert sorted(found.left_out) == sorted(masks)
    assert '2 of a mask branch left out' in str(found)


def test_later_files_have_no_constants():
    """detectron2 has stopped to save them."""
    state = {k: v for k, v in file_of('faster').items()
             if not k.startswith('pixel_') and 'cell_anchors' not in k}
    model = build(read_config('faster'))
    assert load_detectron2(model, state, 'd2.pth').compared == []


@pytest.mark.parametrize('change', [
    lambda k, v: (k, v.half()), lambda k, v: (f'module.{k}', v)])
def test_half_precision_and_wrapped_models(change):
    state = dict(change(*item) for item in file_of('faster').items())
    model = build(read_config('faster'))
    found = load_detectron2(model, dict(model=state), 'd2.pth')
    whole = build(read_config('faster'))
    load_detectron2(whole, file_of('faster'), 'd2.pth')
    assert set(found.renamed.values()) >= {'rpn_head.rpn_cls.weight'}
    for a, b in zip(model.state_dict().values(), whole.state_dict().values()):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def test_written_checkpoint(tmp_path):
    state = dict(file_of('faster'))
    path = tmp_path / 'faster.pth'
    torch.save(dict(model=state, optimizer=dict(x=torch.ones(9))), path)
    cfg = read_config('faster')
    convert_detectron2(str(path), cfg, str(tmp_path / 'ours.pth'))
    written = load_file(tmp_path / 'ours.pth')
    assert written.keys() == {'meta', 'state_dict'}
    assert written['meta']['dataset_meta']['classes'][79] == 'toothbrush'
    model = build(cfg)
    load_strict(model, written['state_dict'], 'ours.pth')
    # What the backbone wants comes along: here what the file said itself.
    variant = read_weights(str(tmp_path / 'ours.pth')).variant
    assert variant.normalization == Normalization(
        (103.53, 116.28, 123.675), (1., 1., 1.), bgr=True)
    assert variant.eps == 1e-5
    assert torch.equal(
        model.rpn_head.rpn_cls.weight,
        state['proposal_generator.rpn_head.objectness_logits.weight'])


@pytest.mark.parametrize('wrap', [
    lambda state: dict(model=state, iteration=9), lambda state: state])
def test_unconverted_where_a_checkpoint_is_wanted(wrap):
    """tools/test.py, load_from, image_demo: told how to go on."""
    with pytest.raises(UserError) as error:
        get_state_dict(wrap(dict(file_of('faster'))), 'checkpoint d2.pth')
    assert str(error.value) == (
        'checkpoint d2.pth: is a detector of detectron2; convert it with '
        'tools/model_converters/detectron2_to_mmdet.py SRC CONFIG DST')


@pytest.mark.parametrize('config', [
    'imagenet/vovnet-39_8xb32_in1k.py', '_base_/default_runtime.py',
    '_base_/models/faster-rcnn_vovnetv2-39_fpn_d2.py'])
def test_configs_of_no_detector(config, tmp_path):
    torch.save(dict(file_of('faster')), tmp_path / 'd2.pth')
    cfg = Config.fromfile(str(ROOT / 'configs' / config))
    with pytest.raises(UserError, match='builds no detector of mmdet; give'):
        convert_detectron2(str(tmp_path / 'd2.pth'), cfg,
                           str(tmp_path / 'ours.pth'))


def change_anchors(state):
    key = 'proposal_generator.anchor_generator.cell_anchors.1'
    state[key] = state[key] * 2


@pytest.mark.parametrize('change, config, message', [
    (lambda s: s.update(pixel_std=torch.full((3, 1, 1), 57.)), 'faster',
     r'trained with data_preprocessor=dict\(mean=\[103.53, 116.28, '
     r'123.675\], std=\[57.0, 57.0, 57.0\], bgr_to_rgb=False\); set it'),
    (change_anchors, 'faster', 'cell_anchors.1 are .* correct anchor_gen'),
    (lambda s: s.update({'sem_seg_head.p2.0.weight': torch.ones(1)}),
     'faster', 'sem_seg_head.p2.0.weight, which no detector here has'),
    (lambda s: s.pop('roi_heads.box_head.fc2.bias'), 'faster',
     'd2.pth: is of another model .*1 missing: roi_head.bbox_head.shared'),
    (lambda s: None, 'mask', 'd2.pth: is of another model .* missing'),
    (lambda s: None, 'fcos', 'd2.pth: is a detector with region proposals, '
     'the config builds FCOS; give'),
    (lambda s: [s.pop(k) for k in list(s) if not k.startswith('backbone.')],
     'faster', 'holds no detector of detectron2 .* init_cfg'),
    (lambda s: [s.pop(k) for k in list(s) if 'bottom_up' in k], 'faster',
     'd2.pth: none of its tensors fits a VoVNet'),
])
def test_what_is_refused(change, config, message):
    state = dict(file_of('faster'))
    change(state)
    with pytest.raises(UserError, match=message) as error:
        load_detectron2(pair_of(config).model, state, 'd2.pth')
    assert len(str(error.value).splitlines()) == 1


def test_config_with_another_normalization_or_arch():
    state = dict(file_of('faster'))
    for changes, message in (
            (dict(data_preprocessor=dict(bgr_to_rgb=True)),
             'bgr_to_rgb=False'),
            (dict(backbone=dict(ese='none')), "set ese='all' in the backbone"),
            (dict(backbone=dict(arch='V2-19-dw'), neck=dict(
                in_channels=[256, 512, 768, 1024])),
             "set arch='V2-19-slim-dw'")):
        cfg = read_config('faster')
        cfg.merge_from_dict(dict(model=changes))
        with pytest.raises(UserError, match=re.escape(message)):
            load_detectron2(build(cfg), state, 'd2.pth')


def test_each_published_detector_has_a_config():
    """Of the same kind of detector and the same arch as its file's name."""
    entries = {n: e for n, e in read_metafiles(
        str(ROOT / 'model-index.yml')).items() if e.format == 'detectron2'}
    assert len(entries) == 8 + 5 + 2 + 3
    for name, entry in entries.items():
        file = Path(entry.url.partition('?')[0]).stem.lower()
        kind = re.match('fast|mask|fcos|centermask', file)[0]
        assert kind.replace('centermask', 'fcos') in entry.config
        size = re.search(r'v[_-](\d+)[_-]ese((?:_slim)?(?:_dw)?)', file)
        arch = size[1] + size[2].replace('_', '-')
        assert f'vovnetv2-{arch}_' in entry.config
        assert ('fpnlite' in file) == ('fpnlite' in entry.config), name
