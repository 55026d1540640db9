"""What is found in the data before training."""
import json
import shutil
import xml.etree.ElementTree as ET

import pytest

import vovnet  # noqa: F401  isort: skip  # first, for mmcv's operators
import mmdet.datasets  # noqa: F401
from mmengine.config import ConfigDict

from vovnet.datasets import make_shapes
from vovnet.engine.checks import check_datasets
from vovnet.utils.errors import UserError

CLASSES = ('circle', 'square', 'triangle')


@pytest.fixture(scope='module')
def generated(tmp_path_factory):
    """A data set in both layouts."""
    root = tmp_path_factory.mktemp('data')
    for layout in 'coco', 'voc':
        make_shapes(root / layout, num_train=6, num_val=2, size=64,
                    classes=CLASSES, layout=layout)
    return root


@pytest.fixture
def coco(generated, tmp_path):
    """A config for a data set that a test may spoil."""
    root = shutil.copytree(generated / 'coco', tmp_path / 'coco')
    data = dict(
        type='CocoDataset', data_root=str(root), data_prefix=dict(img='train'),
        metainfo=dict(classes=CLASSES),
        ann_file='annotations/instances_train.json')
    return ConfigDict(
        train_dataloader=dict(dataset=data),
        model=dict(type='RetinaNet', bbox_head=dict(num_classes=3)))


@pytest.fixture
def voc(generated, tmp_path):
    """A config for the same in VOC's layout."""
    root = shutil.copytree(generated / 'voc', tmp_path / 'voc')
    data = dict(
        type='XMLDataset', data_root=str(root),
        data_prefix=dict(sub_data_root=''), metainfo=dict(classes=CLASSES),
        ann_file='ImageSets/Main/train.txt')
    return ConfigDict(train_dataloader=dict(dataset=data))


def refusal(cfg: ConfigDict, *parts: str, splits=('train', )) -> str:
    """The message, with everything that it has to say."""
    with pytest.raises(UserError) as error:
        check_datasets(cfg, splits)
    message = str(error.value)
    assert '\n' not in message
    for part in parts:
        assert str(part) in message
    return message


def data_of(cfg: ConfigDict) -> ConfigDict:
    return cfg.train_dataloader.dataset


def rewrite(cfg: ConfigDict, change) -> str:
    """Change a COCO file and return its path."""
    path = f'{data_of(cfg).data_root}/{data_of(cfg).ann_file}'
    with open(path) as file:
        content = json.load(file)
    change(content)
    with open(path, 'w') as file:
        json.dump(content, file)
    return path


def test_good_data(coco, voc):
    assert check_datasets(coco) == []
    assert check_datasets(voc) == []


def wrap(data: dict, kind: str) -> dict:
    return dict(
        RepeatDataset=dict(type='RepeatDataset', times=2, dataset=data),
        ConcatDataset=dict(type='ConcatDataset', datasets=[data]),
        ClassBalancedDataset=dict(
            type='ClassBalancedDataset', oversample_thr=.1, dataset=data),
        MultiImageMixDataset=dict(
            type='MultiImageMixDataset', pipeline=[],
            dataset=dict(type='RepeatDataset', times=2, dataset=data)))[kind]


@pytest.mark.parametrize('kind', [
    'RepeatDataset', 'ConcatDataset', 'ClassBalancedDataset',
    'MultiImageMixDataset'])
def test_wrapped_data_is_found(kind, coco):
    data_of(coco).ann_file = 'gone.json'
    coco.train_dataloader.dataset = wrap(data_of(coco), kind)
    refusal(coco, 'gone.json', 'does not exist')


@pytest.mark.parametrize('where', ['coco', 'voc'])
def test_missing_annotations(where, request):
    cfg = request.getfixturevalue(where)
    data_of(cfg).ann_file = 'nowhere/x'
    refusal(cfg, 'train_dataloader', 'nowhere/x does not exist', 'ann_file')


@pytest.mark.parametrize('where, folder', [
    ('coco', 'train'), ('voc', 'JPEGImages')])
def test_missing_and_empty_images(where, folder, request, tmp_path):
    cfg = request.getfixturevalue(where)
    images = sorted((tmp_path / where / folder).glob('*train*.jpg'))
    images[3].write_bytes(b'')
    refusal(cfg, '1 of 6 images', 'are empty files', images[3])
    images[1].unlink()
    images[2].unlink()
    refusal(cfg, '2 of 6 images', 'are missing', images[1], 'data_prefix')
    (tmp_path / where / folder).rename(tmp_path / 'elsewhere')
    refusal(cfg, tmp_path / where / folder, 'does not exist')


def test_class_names_of_coco(coco):
    meta = data_of(coco).metainfo
    for wrong in (('cat', 'dog', 'cow'), ('Circle', 'Square', 'Triangle')):
        meta.classes = wrong
        refusal(coco, ', '.join(wrong), ', '.join(CLASSES),
                'metainfo.classes')
    meta.classes = ('circle', 'square', 'hexagon')
    refusal(coco, 'have no class hexagon')
    # mmdet would call every circle a square and the other way round.
    meta.classes = ('square', 'circle', 'triangle')
    refusal(coco, 'in the order of', str(CLASSES))


def test_class_names_of_voc(voc):
    data_of(voc).metainfo.classes = ('cat', )
    refusal(voc, 'cat', 'circle', 'metainfo.classes')
    # A name that never occurs beside one that nobody asks for: a slip.
    data_of(voc).metainfo.classes = ('square', 'circle', 'Triangle')
    refusal(voc, 'have no class Triangle', ', triangle)')
    # One more than there are may come from a part of several sets.
    data_of(voc).metainfo.classes = (*CLASSES, 'cat')
    assert ['no object of the classes cat' in w
            for w in check_datasets(voc)] == [True]


def test_classes_given_as_text(coco):
    data_of(coco).metainfo.classes = 'circle'
    refusal(coco, "('circle', )", 'comma')


def test_unused_class_is_odd(coco):
    def drop(content):
        content['annotations'] = [
            a for a in content['annotations'] if a['category_id'] != 1]

    path = rewrite(coco, drop)
    assert check_datasets(coco) == [
        f'train_dataloader: {path} has no object of the classes circle']


def test_empty_splits(coco, voc, tmp_path):
    path = rewrite(coco, lambda content: content.update(annotations=[]))
    refusal(coco, path, '6 images', 'no object', 'annotate')
    rewrite(coco, lambda content: content.update(images=[]))
    refusal(coco, path, 'lists no images')
    split = tmp_path / 'voc/ImageSets/Main/train.txt'
    split.write_text('')
    refusal(voc, split, 'lists no images')


def test_unlabelled_images_can_be_tested(coco):
    rewrite(coco, lambda content: content.pop('annotations'))
    coco.test_dataloader = coco.train_dataloader
    coco.test_evaluator = dict(type='CocoMetric', format_only=True)
    assert check_datasets(coco, ('test', )) == []
    coco.test_evaluator.format_only = False
    refusal(coco, 'no object', splits=('test', ))


@pytest.mark.parametrize('text, says', [
    ('{"images": [', 'not valid JSON'), ('[]', 'not a COCO file'),
    ('{"images": []}', 'not a COCO file')])
def test_broken_coco_files(text, says, coco, tmp_path):
    path = tmp_path / 'coco/annotations/instances_train.json'
    path.write_text(text)
    refusal(coco, path, says)


def test_fields_that_mmdet_needs(coco):
    path = rewrite(coco, lambda content: content['annotations'][2].pop('area'))
    refusal(coco, path, "'annotations'", "'area' is 'missing'")


@pytest.mark.parametrize('part', ['images', 'annotations'])
def test_repeated_ids(part, coco):
    path = rewrite(
        coco, lambda content: content[part][1].update(
            id=content[part][0]['id']))
    refusal(coco, path, f"several {part} have the same 'id'")


@pytest.mark.parametrize('part, change, says', [
    ('annotations', dict(bbox=[1, 2, 3]), '[x, y, width, height]'),
    ('annotations', dict(bbox='1,2,3,4'), '[x, y, width, height]'),
    ('annotations', dict(image_id=99), "is of image 99, which is not in"),
    ('images', dict(width='64'), "'width' is '64'; write a number"),
])
def test_values_that_mmdet_cannot_use(part, change, says, coco):
    path = rewrite(
        coco, lambda content: content[part][0].update(change))
    refusal(coco, path, says)


def test_voc_names_with_blanks_or_endings(voc, tmp_path):
    split = tmp_path / 'voc/ImageSets/Main/train.txt'
    names = split.read_text().splitlines()
    for wrong in '', f'{names[0]} ', f'{names[0]}.jpg':
        split.write_text('\n'.join([names[0], wrong, '']))
        refusal(voc, split, f"lists '{wrong}'; write names without ending")


def test_voc_with_difficult_objects_only(voc, tmp_path):
    for path in (tmp_path / 'voc/Annotations').glob('*.xml'):
        path.write_text(path.read_text().replace(
            '<difficult>0<', '<difficult>1<'))
    assert '<difficult>1<' in path.read_text()
    refusal(voc, 'no object of the classes')


def test_broken_voc_files(voc, tmp_path):
    path = sorted((tmp_path / 'voc/Annotations').glob('*train*.xml'))[2]
    tree = ET.parse(path)
    box = tree.getroot().find('object').find('bndbox')
    box.remove(box.find('xmax'))
    tree.write(path)
    refusal(voc, path, 'xmax')
    path.write_text('<annotation>')
    refusal(voc, path, 'not valid XML')
    path.unlink()
    refusal(voc, path, 'does not exist', 'train.txt')


@pytest.mark.parametrize('model, path', [
    (dict(bbox_head=dict(num_classes=80)), 'model.bbox_head'),
    (dict(roi_head=dict(bbox_head=[dict(num_classes=3),
                                   dict(num_classes=4)])),
     'model.roi_head.bbox_head.1'),
    (dict(roi_head=dict(mask_head=dict(num_classes=80))),
     'model.roi_head.mask_head')])
def test_heads_count_as_many_classes(model, path, coco):
    coco.model = model
    refusal(coco, f'{path}.num_classes', '3 classes', 'set it to 3')


def test_other_numbers_of_classes_are_left_alone(coco):
    coco.model = dict(backbone=dict(num_classes=1000),
                      rpn_head=dict(num_classes=1))
    assert check_datasets(coco) == []


def test_metric_reads_another_file(coco, tmp_path):
    coco.val_dataloader = coco.train_dataloader
    other = tmp_path / 'coco/annotations/instances_val.json'
    coco.val_evaluator = dict(type='CocoMetric', ann_file=str(other))
    (line, ) = check_datasets(coco, ('val', ))
    assert str(other) in line and 'instances_train.json' in line
    coco.val_evaluator = [dict(type='CocoMetric', ann_file='gone.json')]
    refusal(coco, 'val_evaluator', 'gone.json', splits=('val', ))


def test_what_is_not_known_is_left_alone(coco):
    data_of(coco).type = 'OpenImagesDataset'
    data_of(coco).ann_file = 'gone'
    assert check_datasets(coco) == []
    data_of(coco).update(type='CocoDataset', data_root='s3://bucket')
    assert check_datasets(coco) == []
