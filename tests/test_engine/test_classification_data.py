"""What is said about a classifier's data before it is trained."""
import hashlib
import pickle
import re

import vovnet  # noqa: F401  isort: skip  # first, for mmcv's operators
import numpy as np
import pytest
from mmpretrain.datasets import CIFAR10

from vovnet.engine.checks import check_datasets
from vovnet.utils.errors import UserError

CLASSES = ('ant', 'bee', 'cat')


@pytest.fixture
def root(tmp_path):
    """Folders of 'images', which nobody opens."""
    for split in ('train', 'val'):
        for name in CLASSES:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                (folder / f'{i}.jpg').write_bytes(b'...')
    return tmp_path


def config(root, **changes):
    def loader(split):
        return dict(dataset=dict(
            type='CustomDataset', data_root=str(root), data_prefix=split,
            pipeline=[dict(type='LoadImageFromFile')]))

    cfg = dict(
        default_scope='mmpretrain',
        model=dict(head=dict(type='LinearClsHead', num_classes=3)),
        data_preprocessor=dict(num_classes=3),
        train_dataloader=loader('train'), val_dataloader=loader('val'),
        val_evaluator=dict(type='Accuracy', topk=(1, )))
    cfg.update(changes)
    return cfg


def with_labels(root, text, split='val', **settings):
    """A file of labels in place of folders."""
    (root / 'labels.txt').write_text(text)
    data = dict(type='CustomDataset', data_root=str(root), data_prefix=split,
                ann_file='labels.txt', **settings)
    return {f'{split}_dataloader': dict(dataset=data)}


def said(cfg, splits=('train', 'val')):
    with pytest.raises(UserError) as caught:
        check_datasets(cfg, splits)
    line = str(caught.value)
    assert '\n' not in line
    return line


def test_good_data(root):
    assert check_datasets(config(root), ('train', 'val')) == []
    text = 'ant/0.jpg 0\nbee/0.jpg 1\ncat/1.jpg 2\n'
    assert check_datasets(config(root, **with_labels(root, text)),
                          ('train', 'val')) == []


def test_inside_a_wrapper(root):
    cfg = config(root)
    cfg['train_dataloader']['dataset'] = dict(
        type='RepeatDataset', times=2,
        dataset=cfg['train_dataloader']['dataset'])
    assert check_datasets(cfg, ('train', 'val')) == []
    remove(root / 'train/bee')
    assert 'model.head.num_classes is 3' in said(cfg)


def remove(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_missing_folder(root):
    line = said(config(root / 'gone'))
    assert f'train_dataloader: image folder {root}/gone/train' in line
    assert 'data_root' in line


def test_no_class_folders(root):
    (root / 'flat').mkdir()
    (root / 'flat/0.jpg').touch()
    cfg = config(root)
    cfg['train_dataloader']['dataset']['data_prefix'] = 'flat'
    assert re.search('flat holds no folders; put the images', said(cfg))
    cfg['train_dataloader']['dataset'].update(type='ImageNet', split='')
    assert 'meta/val.txt' in said(cfg)


def test_empty_class_folder(root):
    for file in (root / 'train/bee').iterdir():
        file.rename(file.with_suffix('.txt'))
    line = said(config(root))
    assert f'class folder {root}/train/bee holds no images' in line
    assert '.jpg' in line and 'fill it' in line
    # Images in folders below it are its images.
    (root / 'train/bee/more').mkdir()
    (root / 'train/bee/more/0.JPG').write_bytes(b'...')
    assert check_datasets(config(root), ('train', 'val')) == []


def test_class_missing_from_validation(root):
    remove(root / 'val/bee')
    line = said(config(root))
    assert line.startswith('val_dataloader: its class folders are not those '
                           'of train_dataloader (missing: bee; too many: none')
    # Another in its place is no better, nor is one too many.
    (root / 'val/dog').mkdir()
    (root / 'val/dog/0.jpg').write_bytes(b'...')
    assert '(missing: bee; too many: dog)' in said(config(root))
    (root / 'val/bee').mkdir()
    (root / 'val/bee/0.jpg').write_bytes(b'...')
    assert '(missing: none; too many: dog)' in said(config(root))


def test_class_missing_from_the_test_alone(root):
    """The folders of training tell what is missing from another split."""
    remove(root / 'val/bee')
    line = said(config(root), ['val'])
    assert line.startswith('val_dataloader: ') and 'missing: bee' in line


def test_hidden_folder_and_empty_image(root):
    (root / 'val/bee/1.jpg').write_bytes(b'')
    line = said(config(root))
    assert '1 of 2 images' in line and 'are empty files' in line
    assert f'the first is {root}/val/bee/1.jpg' in line
    (root / 'train/.cache').mkdir()
    assert f'class folder {root}/train/.cache holds no images' in said(
        config(root))


@pytest.mark.parametrize('count', [2, 1000])
def test_wrong_number_of_classes(root, count):
    cfg = config(root, model=dict(head=dict(num_classes=count)))
    line = said(cfg)
    assert f'model.head.num_classes is {count}' in line
    assert 'has 3 classes (ant, bee, cat); set it to 3' in line
    cfg = config(root, data_preprocessor=dict(num_classes=count))
    assert (f'data_preprocessor.num_classes is {count}, but train_dataloader '
            'has 3 classes') in said(cfg)
    # Of the test alone, too.
    cfg = config(root, model=dict(head=dict(num_classes=count)))
    assert 'val_dataloader has 3' in said(cfg, ['val'])


def test_imagenet_with_other_classes(root):
    cfg = config(root)
    cfg['train_dataloader']['dataset'].update(
        type='ImageNet', split='train', data_prefix='')
    line = said(cfg)
    assert '3 class folders (ant, bee, cat)' in line
    assert '1000 class names' in line and "type='CustomDataset'" in line


def test_names_in_another_order(root):
    cfg = config(root)
    data = cfg['train_dataloader']['dataset']
    data['metainfo'] = dict(classes=('cat', 'ant', 'bee'))
    assert "write metainfo.classes in it: ('ant', 'bee', 'cat')" in said(cfg)
    # Names that are no folders are the user's own for them.
    data['metainfo'] = dict(classes=('Zebra', 'Yak', 'Wolf'))
    assert check_datasets(cfg, ['train']) == []


def test_metric_of_more_classes_than_there_are(root):
    cfg = config(root, val_evaluator=[dict(type='Accuracy', topk=(1, 5))])
    assert 'val_evaluator: topk=(1, 5), but there are 3 classes' in said(cfg)


@pytest.mark.parametrize('text, parts', [
    ('', ['lists no images']),
    ('ant/0.jpg\n', ["labels.txt, line 1: 'ant/0.jpg'", 'the number of']),
    ('ant/0.jpg 0\nant/1.jpg one\n', ['labels.txt, line 2']),
    ('ant/0.jpg 3\n', ["line 1: 'ant/0.jpg 3'", 'one of 3 classes']),
    ('ant/9.jpg 0\n', ['labels.txt lists are missing', 'val/ant/9.jpg;']),
])
def test_files_of_labels(root, text, parts):
    line = said(config(root, **with_labels(root, text)))
    assert line.startswith('val_dataloader: ')
    assert all(part in line for part in parts)


def test_missing_file_of_labels(root):
    cfg = config(root, **with_labels(root, 'x'))
    (root / 'labels.txt').unlink()
    assert 'annotation file' in said(cfg) and 'does not exist' in said(cfg)


def test_labels_that_do_not_occur(root):
    cfg = config(root, **with_labels(
        root, 'ant/0.jpg 0\n', metainfo=dict(classes=CLASSES)))
    line, = check_datasets(cfg, ('train', 'val'))
    assert line.endswith('labels.txt has no image of the classes bee, cat')


def cifar(root, **settings):
    data = dict(type='CIFAR10', data_root=str(root), **settings)
    return dict(
        default_scope='mmpretrain',
        model=dict(head=dict(num_classes=10)),
        train_dataloader=dict(dataset=dict(data, split='train')),
        val_dataloader=dict(dataset=dict(data, split='test')))


def test_cifar_is_not_there(tmp_path):
    line = said(cifar(tmp_path, download=False))
    assert f'{tmp_path} does not hold CIFAR10' in line
    assert 'cifar-10-python.tar.gz' in line
    assert 'train_dataloader.dataset.download=True' in line
    # To be downloaded, by one data set for the other.
    cfg = cifar(tmp_path, download=False)
    cfg['train_dataloader']['dataset']['download'] = True
    assert check_datasets(cfg, ('train', 'val')) == []


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """Files as CIFAR-10's, of two images each, and their images."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng, images = np.random.default_rng(0), {}
    for part in ('train_list', 'test_list'):
        entries = []
        for name, _ in getattr(CIFAR10, part):
            images[name] = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
            content = pickle.dumps(dict(data=images[name], labels=[3, 7]))
            (folder / name).write_bytes(content)
            entries.append([name, hashlib.md5(content).hexdigest()])
        monkeypatch.setattr(CIFAR10, part, entries)
    return tmp_path, images


def test_cifar_from_a_local_folder(small_cifar):
    root, images = small_cifar
    cfg = cifar(root, download=False)
    assert check_datasets(cfg, ('train', 'val')) == []
    for split, count in (('train', 10), ('test', 2)):
        data = CIFAR10(data_root=str(root), split=split, download=False)
        assert len(data) == count
        assert data.get_gt_labels().tolist() == [3, 7] * (count // 2)
    # Rows of red, then green, then blue pixels.
    first = images['test_batch'][0].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(data[0]['img'], first)
    cfg['model']['head']['num_classes'] = 100
    assert 'set it to 10' in said(cfg)


def test_cifar_is_damaged(small_cifar):
    root, _ = small_cifar
    file = root / CIFAR10.base_folder / 'data_batch_3'
    file.write_bytes(file.read_bytes()[:-1])
    line = said(cifar(root, download=False))
    assert f'{file} is damaged' in line and 'download and unpack' in line
