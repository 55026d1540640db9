"""The generated set against its pixels, its readers and its promises."""
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vovnet.datasets import (
    SHAPE_CLASSES,
    draw_scene,
    make_shapes,
    trace_polygons,
)
from vovnet.utils.errors import UserError

SMALL = dict(num_train=6, num_val=4, size=64)


@pytest.fixture(scope='module')
def scenes():
    return [draw_scene('train', index) for index in range(60)]


@pytest.fixture(scope='module')
def coco_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('coco') / 'shapes'
    make_shapes(root, **SMALL)
    return root


def decode(polygons, size):
    """Rasterise as COCO's tools do."""
    rles = coco_mask.frPyObjects(polygons, size, size)
    return coco_mask.decode(coco_mask.merge(rles)).astype(bool)


def covered(outline, size, grid=10):
    """Share of each pixel's grid points that the even-odd rule puts inside."""
    low = np.clip(np.floor(outline.min(0)).astype(int), 0, size)
    high = np.clip(np.ceil(outline.max(0)).astype(int), 0, size)
    x, y = (a + (np.arange((b - a) * grid) + 0.5) / grid
            for a, b in zip(low, high))
    inside = np.zeros((len(y), len(x)), bool)
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, 0)):
        if y1 == y2:
            continue
        crossing = x1 + (y - y1) / (y2 - y1) * (x2 - x1)
        spans = (y1 > y) != (y2 > y)
        inside ^= spans[:, None] & (x < crossing[:, None])
    share = np.zeros((size, size))
    blocks = inside.reshape(len(y) // grid, grid, len(x) // grid, grid)
    share[low[1]:high[1], low[0]:high[0]] = blocks.mean((1, 3))
    return share


def tight_box(mask):
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return [columns[0], rows[0], columns[-1] - columns[0] + 1,
            rows[-1] - rows[0] + 1]


def compute_area(outline):
    x, y = outline.T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes()
            for path in sorted(folder.rglob('*')) if path.is_file()}


# ---- Annotations agree with the pixels -----------------------------------


@pytest.mark.parametrize('density', [0.3, 0.5, 0.8])
def test_polygons_reproduce_any_mask(density):
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (7, 5), (20, 31)] * 5:
        mask = rng.random(shape) < density
        # Holes are what the outside does not reach through pixel edges.
        padded = np.pad(mask, 1).astype(np.uint8)
        cv2.floodFill(padded, None, (0, 0), 2, flags=4)
        filled = (padded != 2)[1:-1, 1:-1]
        polygons = trace_polygons(mask)
        if not mask.any():
            assert polygons == []
            continue
        rles = coco_mask.frPyObjects(polygons, *shape)
        decoded = coco_mask.decode(coco_mask.merge(rles))
        np.testing.assert_array_equal(decoded, filled)


def test_facts_of_a_mask_are_consistent(scenes):
    for scene in scenes:
        for k, instance in enumerate(scene.list_instances(), 1):
            mask = scene.ids == k
            polygons = instance['segmentation']
            np.testing.assert_array_equal(decode(polygons, 160), mask)
            assert instance['area'] == mask.sum()
            assert instance['bbox'] == tight_box(mask)
            corners = np.concatenate(
                [np.reshape(p, (-1, 2)) for p in polygons])
            x, y = corners.min(0)
            width, height = corners.max(0) - (x, y)
            assert instance['bbox'] == [x, y, width, height]


@pytest.mark.parametrize('size', [32, 160])
def test_masks_are_the_visible_parts_of_the_outlines(size):
    compared = 0
    for index in range(40):
        scene = draw_scene('val', index, size=size)
        shares = [covered(shape.outline, size) for shape in scene.shapes]

        def seen(k, least, later, shares=shares):
            """Where ``k`` has its share, and no later shape has its own."""
            return (shares[k] >= least) & np.all(
                [share < later for share in shares[k + 1:]], axis=0)

        for k, instance in enumerate(scene.list_instances()):
            mask = decode(instance['segmentation'], size)
            # Pixels that are clearly seen, and those that may be.
            assert mask[seen(k, 0.6, 0.4)].all()
            assert seen(k, 0.4, 0.6)[mask].all()
            expected = seen(k, 0.5, 0.5)
            if expected.sum() >= 100:
                iou = (mask & expected).sum() / (mask | expected).sum()
                assert iou >= 0.9
                x, y, width, height = instance['bbox']
                left, top, across, down = tight_box(expected)
                assert np.abs([x - left, y - top,
                               x + width - left - across,
                               y + height - top - down]).max() <= 1
                compared += 1
    assert compared > 20


def test_nothing_but_the_shapes_changes_the_ground(scenes):
    for index, scene in enumerate(scenes):
        ground = draw_scene('train', index, empty_share=1.0)
        assert not ground.shapes and not ground.ids.any()
        changed = (scene.image != ground.image).any(2)
        seen = scene.ids > 0
        # The tip of a star fades out over two pixels.
        near = cv2.dilate(seen.astype(np.uint8), np.ones((5, 5)))
        assert not changed[near == 0].any()
        assert changed[seen].mean() > 0.98


def test_an_instance_shows_its_own_paint_in_its_mask(scenes):
    compared = 0
    for scene in scenes:
        for k, shape in enumerate(scene.shapes, 1):
            mask = cv2.erode((scene.ids == k).astype(np.uint8),
                             np.ones((3, 3)), borderValue=0)
            pixels = scene.image[mask > 0].astype(float)
            start, end = shape.colors.astype(float)
            step = end - start
            along = np.clip((pixels - start) @ step / (step @ step), 0, 1)
            off = np.linalg.norm(pixels - start - along[:, None] * step,
                                 axis=1)
            # The grain's deviation is at most 8 in each channel.
            assert (off > 3 * 8 * math.sqrt(3)).mean() < 0.01
            compared += len(pixels)
    assert compared > 10000


def test_files_show_what_was_drawn(coco_root):
    for index in range(SMALL['num_val']):
        image = cv2.imread(str(coco_root / f'val/val_{index:06d}.jpg'))
        scene = draw_scene('val', index, size=SMALL['size'])
        difference = np.abs(image.astype(int) - scene.image)
        assert difference.mean() < 8


@pytest.mark.parametrize('name, corners, outermost', [
    ('circle', 64, 64), ('square', 4, 4), ('triangle', 3, 3),
    ('star', 10, 5), ('cross', 12, 8)])
def test_outlines_are_what_they_are_called(name, corners, outermost):
    shape, = draw_scene('val', 0, classes=[name], max_objects=1).shapes
    assert shape.name == name
    outline = shape.outline
    assert len(outline) == corners
    radii = np.linalg.norm(outline - outline.mean(0), axis=1)
    assert np.isclose(radii, radii.max()).sum() == outermost
    regular = {'circle': math.pi, 'square': 2, 'triangle': 3**1.5 / 4}
    if name in regular:
        assert compute_area(outline) == pytest.approx(
            regular[name] * radii.max()**2, rel=0.01)
    assert cv2.isContourConvex(outline.astype(np.float32)) == (
        name in regular)


# ---- What is drawn -------------------------------------------------------


def test_shapes_are_visible_varied_and_overlap(scenes):
    sides, occluded = [], []
    for scene in scenes:
        assert 1 <= len(scene.shapes) <= 5
        for k, shape in enumerate(scene.shapes, 1):
            mask = scene.ids == k
            whole = compute_area(shape.outline)
            assert mask.sum() >= 0.49 * whole
            sides.append(max(tight_box(mask)[2:]))
            within = (covered(shape.outline, 160) >= 0.5).sum()
            occluded.append(mask.sum() < 0.95 * within)
    assert {len(scene.shapes) for scene in scenes} == {1, 2, 3, 4, 5}
    assert {s.name for scene in scenes
            for s in scene.shapes} == set(SHAPE_CLASSES)
    assert np.mean([20 <= side <= 80 for side in sides]) > 0.8
    assert 0.1 < np.mean(occluded) < 0.5


def test_every_image_has_a_shape_whatever_the_size():
    for size in (32, 48, 96):
        for index in range(50):
            scene = draw_scene('train', index, size=size, max_objects=12)
            assert 1 <= len(scene.shapes) <= 12
            assert scene.image.shape == (size, size, 3)


def test_share_of_empty_images():
    empty = [not draw_scene('train', i, size=32, max_objects=1,
                            empty_share=0.3).shapes for i in range(400)]
    # Four standard deviations of the binomial distribution.
    assert abs(np.mean(empty) - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 400)


def test_a_scene_depends_on_seed_split_and_index_alone():
    first = draw_scene('train', 3)
    again = draw_scene('train', 3)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.list_instances() == again.list_instances()
    for other in (draw_scene('val', 3), draw_scene('train', 4),
                  draw_scene('train', 3, seed=1)):
        assert (other.image != first.image).mean() > 0.5


# ---- The set on the disk -------------------------------------------------


def test_same_settings_same_bytes(coco_root, tmp_path):
    make_shapes(tmp_path / 'again', **SMALL)
    assert snapshot(tmp_path / 'again') == snapshot(coco_root)
    make_shapes(tmp_path / 'other', **SMALL, seed=1)
    assert snapshot(tmp_path / 'other') != snapshot(coco_root)


def test_a_larger_set_begins_with_the_smaller(coco_root, tmp_path):
    make_shapes(tmp_path / 'more', num_train=9, num_val=5, size=64)
    small, large = snapshot(coco_root), snapshot(tmp_path / 'more')
    for name, content in small.items():
        if name.suffix == '.jpg':
            assert large[name] == content
    for split in ('train', 'val'):
        name = Path(f'annotations/instances_{split}.json')
        few, many = json.loads(small[name]), json.loads(large[name])
        for key in ('images', 'annotations'):
            assert len(few[key]) < len(many[key])
            assert many[key][:len(few[key])] == few[key]


def test_coco_files(coco_root):
    for split, count in (('train', 6), ('val', 4)):
        file = coco_root / f'annotations/instances_{split}.json'
        data = json.loads(file.read_text())
        assert {'info', 'licenses'} <= data.keys()
        assert [(c['id'], c['name']) for c in data['categories']] == list(
            enumerate(SHAPE_CLASSES, 1))
        assert len(data['images']) == count
        for key in ('images', 'annotations'):
            assert [entry['id'] for entry in data[key]] == list(
                range(1, len(data[key]) + 1))
        licences = {entry['id'] for entry in data['licenses']}
        assert {image['license'] for image in data['images']} <= licences
        for annotation in data['annotations']:
            assert annotation['iscrowd'] == 0
            polygon = annotation['segmentation'][0]
            # pycocotools takes a list of four numbers for a box.
            assert len(polygon) >= 8 and len(polygon) % 2 == 0
        named = {image['file_name'] for image in data['images']}
        assert named == {p.name for p in (coco_root / split).iterdir()}


@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_ground_truth_scores_full_marks(coco_root, kind):
    truth = COCO(str(coco_root / 'annotations/instances_train.json'))
    detections = truth.loadRes([
        dict(image_id=a['image_id'], category_id=a['category_id'], score=1.0,
             **({'bbox': a['bbox']} if kind == 'bbox' else
                {'segmentation': truth.annToRLE(a)}))
        for a in truth.anns.values()])
    evaluation = COCOeval(truth, detections, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_mmdet_reads_both_layouts_alike(tmp_path):
    from mmdet.datasets import CocoDataset, XMLDataset
    classes = ('star', 'circle', 'triangle')
    common = dict(num_train=8, num_val=2, size=64, classes=classes,
                  empty_share=0.3)
    make_shapes(tmp_path / 'coco', **common)
    make_shapes(tmp_path / 'voc', layout='voc', **common)
    metainfo = dict(classes=classes)
    coco = CocoDataset(
        data_root=str(tmp_path / 'coco'), metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'), pipeline=[])
    voc = XMLDataset(
        data_root=str(tmp_path / 'voc'), metainfo=metainfo,
        ann_file='ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root=''), pipeline=[])
    assert len(coco) == len(voc) == 8
    found = 0
    for index, (one, other) in enumerate(zip(coco, voc)):
        scene = draw_scene('train', index, size=64, classes=classes,
                           empty_share=0.3)
        assert Path(one['img_path']).read_bytes() == Path(
            other['img_path']).read_bytes()
        assert (one['height'], one['width']) == (64, 64)
        assert (other['height'], other['width']) == (64, 64)
        assert (len(one['instances']) == len(other['instances'])
                == len(scene.shapes))
        for k, (a, b) in enumerate(zip(one['instances'],
                                       other['instances'])):
            x, y, width, height = tight_box(scene.ids == k + 1)
            assert a['bbox'] == [x, y, x + width, y + height]
            # VOC's corners are the first and the last pixel.
            assert b['bbox'] == [x, y, x + width - 1, y + height - 1]
            assert (classes[a['bbox_label']] == classes[b['bbox_label']]
                    == scene.shapes[k].name)
            found += 1
    assert found and any(not data['instances'] for data in coco)


# ---- Bad input -----------------------------------------------------------


@pytest.mark.parametrize('wrong, said', [
    (dict(classes=['circle', 'hexagon']), ', '.join(SHAPE_CLASSES)),
    (dict(classes=[]), 'classes'),
    (dict(classes=['star', 'star']), 'once'),
    (dict(size=31), '32'),
    (dict(size=64.0), 'whole number'),
    (dict(num_train=0), 'num_train'),
    (dict(num_val=-1), 'num_val'),
    (dict(seed=-1), 'seed'),
    (dict(max_objects=0), 'max_objects'),
    (dict(empty_share=1.5), '0 to 1'),
    (dict(empty_share=math.nan), '0 to 1'),
    (dict(layout='yolo'), 'coco, voc'),
])
def test_bad_arguments(tmp_path, wrong, said):
    with pytest.raises(UserError, match=said) as caught:
        make_shapes(tmp_path / 'set', **{**SMALL, **wrong})
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_bad_split():
    with pytest.raises(UserError, match='train, val'):
        draw_scene('test', 0)
