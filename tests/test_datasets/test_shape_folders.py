"""The generated pictures and what is in them."""
import vovnet  # noqa: F401  isort: skip  # first, for mmcv's operators
import cv2
import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset

from vovnet.datasets import (
    SHAPE_CLASSES,
    draw_picture,
    draw_scene,
    make_shape_folders,
    shape_folders,
)
from vovnet.datasets.shape_folders import TEN_CLASSES
from vovnet.utils.errors import UserError


def files(root):
    return {str(f.relative_to(root)): f.read_bytes()
            for f in root.rglob('*') if f.is_file()}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'set'
    assert make_shape_folders(root, num_train=2, num_val=1, size=32, seed=3,
                              classes=('star', 'circle', 'circle+star'))
    return root


def test_mmpretrain_reads_it(root):
    for split, count in (('train', 2), ('val', 1)):
        data = CustomDataset(data_root=str(root), data_prefix=split)
        assert data.CLASSES == ('circle', 'circle+star', 'star')
        assert data.get_gt_labels().tolist() == sorted(
            count * [0, 1, 2])
        for i in range(len(data)):
            info = data.get_data_info(i)
            image = cv2.imread(info['img_path'])
            assert image.shape == (32, 32, 3)
            name = data.CLASSES[info['gt_label']]
            drawn = draw_picture(name, split, i % count, 32, 3)
            # JPEG keeps the picture but for its grain.
            assert np.abs(image - drawn.astype(float)).mean() < 6


@pytest.mark.parametrize('name', ['triangle', 'cross+cross', 'star+circle'])
def test_a_picture_shows_what_its_class_says(name, monkeypatch):
    """All pixels of the right shapes, and the ground around them."""
    wanted = sorted(name.split('+'))

    def marked(*args):
        scene = draw_scene(*args)
        # Each shape in its own color, on black.
        scene.image[:] = 100 * scene.ids[..., None]
        seen.append(scene)
        return scene

    monkeypatch.setattr(shape_folders, 'draw_scene', marked)
    for index in range(5):
        seen = []
        picture = draw_picture(name, 'train', index, 48)
        scene = seen[-1]
        assert sorted(shape.name for shape in scene.shapes) == wanted
        assert picture.shape == (48, 48, 3)
        assert picture.min() == 0 and picture.max() >= 90 * len(wanted)
        # Cut no closer than to the shapes' border: their share of the picture
        # is that of the smallest square around them, over 1.1² to 1.5².
        rows, columns = np.nonzero(scene.ids)
        side = max(np.ptp(rows), np.ptp(columns)) + 1
        area = (scene.ids > 0).sum()
        share = (picture[..., 0] > 50).mean()
        cut = min((side * 1.1)**2, 48**2), min((side * 1.5 + 1)**2, 48**2)
        assert 0.93 * area / cut[1] < share < 1.07 * area / cut[0]


def test_classes_share_backgrounds_and_colors():
    """Only the shape tells the classes apart."""
    first = [draw_scene('train', 128 * 7, 64, 0, (name, ), 1)
             for name in SHAPE_CLASSES]
    for scene in first[1:]:
        np.testing.assert_array_equal(scene.shapes[0].colors,
                                      first[0].shapes[0].colors)
        # Pixels at a shape's border have some of its color.
        shapes = (scene.ids + first[0].ids > 0).astype(np.uint8)
        both = cv2.dilate(shapes, np.ones((3, 3), np.uint8)) == 0
        np.testing.assert_array_equal(scene.image[both],
                                      first[0].image[both])


def test_pictures_differ_but_for_their_settings():
    """By index, split, seed and class, and not from call to call."""
    settings = [('star', 'train', 0), ('star', 'train', 1),
                ('star', 'val', 0), ('cross', 'train', 0)]
    pictures = [draw_picture(*s, 32) for s in settings]
    pictures.append(draw_picture(*settings[0], 32, seed=1))
    assert len({p.tobytes() for p in pictures}) == 5
    again = draw_picture(*settings[0], 32)
    np.testing.assert_array_equal(again, pictures[0])


def test_ten_classes():
    assert len(set(TEN_CLASSES)) == 10
    assert {frozenset(name.split('+')) for name in TEN_CLASSES} == {
        frozenset([name]) for name in SHAPE_CLASSES}


def test_same_settings_same_bytes_and_a_larger_set(root, tmp_path):
    settings = dict(size=32, seed=3, classes=('star', 'circle',
                                              'circle+star'))
    make_shape_folders(tmp_path / 'same', 2, 1, **settings)
    assert files(tmp_path / 'same') == files(root)
    make_shape_folders(tmp_path / 'more', 3, 1, **settings)
    larger, smaller = files(tmp_path / 'more'), files(root)
    smaller.pop('shapes.json'), larger.pop('shapes.json')
    assert smaller.items() <= larger.items() and len(larger) == 12


@pytest.mark.parametrize('wrong, said', [
    (dict(num_train=0), 'num_train is 0'),
    (dict(num_val=-1), 'num_val is -1'),
    (dict(size=31), 'at least 32'),
    (dict(seed=-1), 'seed is -1'),
    (dict(classes=('hexagon', )), 'circle, or circle.star'),
    (dict(classes=('star', 'star')), 'each once'),
    (dict(classes=()), 'one or more'),
])
def test_bad_arguments(tmp_path, wrong, said):
    with pytest.raises(UserError, match=said):
        make_shape_folders(tmp_path / 'set', **{
            **dict(num_train=1, num_val=1, size=32), **wrong})
    assert not list(tmp_path.iterdir())


def test_more_shapes_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(shape_folders, '_ATTEMPTS', 2)
    with pytest.raises(UserError, match='no room in 32 px; ask for fewer'):
        make_shape_folders(tmp_path / 'set', 1, 1, 32, classes=(
            '+'.join(30 * ['circle']), ))
    assert not list(tmp_path.iterdir())
