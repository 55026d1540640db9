"""The transforms, on a data set in VOC's layout."""
from pathlib import Path

import pytest

import vovnet  # isort: skip  # noqa: F401  # first, for mmcv's operators
from mmdet.datasets import XMLDataset
from mmengine.config import Config
from mmengine.registry import DefaultScope

from vovnet.datasets import make_shapes

CONFIGS = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'
METAINFO = dict(classes=('circle', 'square', 'triangle', 'star', 'cross'))
LOAD = [dict(type='LoadImageFromFile'),
        dict(type='mmdet.LoadAnnotations', with_bbox=True)]
PACK = dict(type='mmdet.PackDetInputs', meta_keys=())


def test_difficult_objects_are_kept(tmp_path):
    """Half of the objects are made difficult; the reader ignores them."""
    make_shapes(tmp_path, num_train=4, num_val=1, size=64, layout='voc')
    counts = []
    for file in sorted((tmp_path / 'Annotations').iterdir()):
        text = file.read_text()
        marked = text.replace('<difficult>0', '<difficult>1',
                              text.count('<object>') // 2)
        file.write_text(marked)
    for steps in ([], [dict(type='KeepDifficultObjects')]):
        data = XMLDataset(
            data_root=str(tmp_path), ann_file='ImageSets/Main/train.txt',
            data_prefix=dict(sub_data_root=''),
            metainfo=METAINFO,
            pipeline=[*LOAD, *steps, PACK])
        samples = [data[i]['data_samples'] for i in range(len(data))]
        counts.append([(len(s.gt_instances), len(s.ignored_instances))
                       for s in samples])
    plain, kept = counts
    assert any(ignored for _, ignored in plain)
    assert kept == [(learnt + ignored, 0) for learnt, ignored in plain]


@pytest.mark.parametrize('name, size', [
    ('voc0712_ssd300', 300), ('voc0712_ssd320', 320), ('voc0712_ssd512', 512),
    ('coco_ssd300', 300), ('coco_ssd320', 320), ('coco_ssd512', 512)])
def test_ssds_augmentation(tmp_path, name, size):
    """Squares of the config's size, with the boxes that are left, inside."""
    make_shapes(tmp_path, num_train=3, num_val=1, size=64, layout='voc')
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    inner = cfg.train_dataloader.dataset
    sets = inner.get('datasets', [inner])
    assert len(sets) == (2 if 'voc' in name else 1)
    assert all(s.pipeline == sets[0].pipeline for s in sets)
    test_steps = cfg.test_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope('mmdet'):
        training, testing = (XMLDataset(
            data_root=str(tmp_path), ann_file='ImageSets/Main/train.txt',
            data_prefix=dict(sub_data_root=''), metainfo=METAINFO,
            pipeline=steps) for steps in (sets[0].pipeline, test_steps))
        for i in range(3 * len(training)):
            data = training[i % 3]
            assert data['inputs'].shape == (3, size, size)
            boxes = data['data_samples'].gt_instances.bboxes.tensor
            assert len(boxes)
            assert ((boxes >= 0) & (boxes <= size)).all()
            assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
        sample = testing[0]
    assert sample['inputs'].shape == (3, size, size)
    assert sample['data_samples'].scale_factor == (size / 64, size / 64)
