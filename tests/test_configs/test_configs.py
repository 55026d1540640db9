"""Every config of the project: parses, builds, learns and detects."""
import copy
import functools
import json
import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

import vovnet  # noqa: F401
from vovnet.checkpoints import KNOWN_WEIGHTS, Normalization
from vovnet.checkpoints.metafiles import read_index
from vovnet.checkpoints.normalization import have_same_mean
from vovnet.models import VoVNet

CONFIGS = Path(__file__).parents[2] / 'configs'
CLASSIFIERS = ('cifar/*', 'imagenet/*', '*/classifier_*')
# A user's copies in custom/ are called my_*, and are the user's business.
FILES = sorted(f for f in CONFIGS.rglob('*.py')
               if '_base_' not in f.parts and not f.name.startswith('my_')
               # Those have tests of their own, in test_classifier_configs.py.
               and not any(map(f.match, CLASSIFIERS)))
NAMES = [str(f.relative_to(CONFIGS)) for f in FILES]


@functools.cache
def read(name):
    return Config.fromfile(str(CONFIGS / name))


@pytest.fixture(scope='module')
def load():
    """Read each config once; tests get their own copy."""
    return lambda name: copy.deepcopy(read(name))


def build(cfg):
    cfg = copy.deepcopy(cfg.model)

    def one_process(node):
        # What MMEngine's runner does in a single process.
        if isinstance(node, dict):
            if node.get('type') == 'SyncBN':
                node['type'] = 'BN'
            for value in node.values():
                one_process(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                one_process(value)

    one_process(cfg)
    # As the runner sets it for its whole life.
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def sample(size, num_classes, with_masks):
    """A picture with two objects of different classes."""
    from mmdet.structures.mask import BitmapMasks
    data = DetDataSample(metainfo=dict(
        img_shape=(size, size), ori_shape=(size, size),
        batch_input_shape=(size, size), pad_shape=(size, size),
        scale_factor=(1., 1.)))
    boxes = torch.tensor([[8., 8., 60., 60.], [30., 20., 100., 90.]])
    data.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, num_classes - 1]))
    if with_masks:
        masks = torch.zeros(2, size, size, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
            mask[y1:y2, x1:x2] = 1
        data.gt_instances.masks = BitmapMasks(masks.numpy(), size, size)
    data.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return data


def class_counts(node):
    """All values of num_classes below a config node."""
    if isinstance(node, dict):
        if 'num_classes' in node and node.get('type') != 'RPNHead':
            yield node['num_classes']
        for value in node.values():
            yield from class_counts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from class_counts(value)


def leaf_datasets(node):
    """The data sets inside the wrappers."""
    if 'datasets' in node:
        for child in node['datasets']:
            yield from leaf_datasets(child)
    elif 'dataset' in node:
        yield from leaf_datasets(node['dataset'])
    else:
        yield node


def test_there_are_configs():
    folders = {Path(n).parts[0] for n in NAMES}
    assert folders >= {'retinanet', 'faster_rcnn', 'mask_rcnn', 'demo',
                       'custom'}


@pytest.mark.parametrize('name', NAMES)
def test_config_is_complete(name, load):
    cfg = load(name)
    assert 'vovnet' in cfg.custom_imports.imports
    assert cfg.default_scope == 'mmdet'
    # The learning rate is for the batch that the name or the file states.
    gpus, rest = divmod(cfg.auto_scale_lr.base_batch_size,
                        cfg.train_dataloader.batch_size)
    assert not rest and gpus in ((8, ) if 'x_' in name else (1, 4, 8))
    kinds = {b['type'] for b in cfg.vis_backends}
    assert {'LocalVisBackend', 'TensorboardVisBackend'} <= kinds
    for split in ('train', 'val', 'test'):
        assert f'{split}_dataloader' in cfg and f'{split}_cfg' in cfg
    # The file's name tells the arch.
    stem = Path(name).stem
    found = re.search(r'vovnet(v2)?-([\w-]+?)_', stem)
    assert bool(found) == (cfg.model.backbone.type == 'VoVNet')
    if found:
        version, size = found.groups()
        assert cfg.model.backbone.arch == f'V{2 if version else 1}-{size}'
    schedule = re.search(r'(_|-)(\d+)x_(coco|voc)', stem)
    if schedule and 'max_epochs' in cfg.train_cfg:
        repeats = cfg.train_dataloader.dataset.get('times', 1)
        assert cfg.train_cfg.max_epochs * repeats == 12 * int(schedule[2])
    elif schedule:
        # detectron2 and maskrcnn-benchmark count iterations of 16 images.
        assert re.search('(d2|mb|gn-scratch)-', stem)
        assert cfg.auto_scale_lr.base_batch_size == 16
        assert cfg.train_cfg.max_iters == 90000 * int(schedule[2])


@pytest.mark.parametrize('name', NAMES)
def test_neck_takes_what_the_backbone_gives(name, load):
    cfg = load(name)
    backbone = cfg.model.backbone
    if backbone.pop('type') != 'VoVNet':
        return  # says nothing beforehand: test_config_learns_and_detects
    backbone.pop('norm_cfg', None)
    with torch.device('meta'):
        declared = VoVNet(**backbone)
    assert list(cfg.model.neck.in_channels) == list(declared.out_channels)


@pytest.mark.parametrize('name', NAMES)
def test_heads_know_the_classes(name, load):
    cfg = load(name)
    counts = set(class_counts(cfg.model))
    assert len(counts) == 1
    for split in ('train', 'val', 'test'):
        for dataset in leaf_datasets(cfg[f'{split}_dataloader'].dataset):
            classes = dataset.get('metainfo', {}).get('classes')
            expected = len(classes) if classes else {
                'CocoDataset': 80, 'VOCDataset': 20}[dataset.type]
            assert counts == {expected}


def distinct_models():
    """The first config of each detector: recipes and image sizes share them.

    A VoVNet counts by the widths of its outputs; that every arch, with every
    option, learns in all of its parameters is tested in test_models.
    """
    first = {}
    for name in NAMES:
        model = copy.deepcopy(read(name).model)
        model.pop('data_preprocessor', None)
        if model.backbone.type == 'VoVNet':
            model.backbone = dict(type='VoVNet')
        key = json.dumps(model.to_dict(), sort_keys=True)
        first.setdefault(key, name)
    return list(first.values())


# Memory and time allow all of them; the largest takes about 2 GB.
@pytest.mark.parametrize('name', distinct_models())
def test_config_learns_and_detects(name, load):
    torch.manual_seed(0)
    cfg = load(name)
    num_classes = next(iter(class_counts(cfg.model)))
    # Pelee's last convolutions are not padded.
    size = 304 if cfg.model.neck.type == 'PeleeNeck' else 128
    with_masks = 'mask_head' in cfg.model.get('roi_head', {})
    # At most a few proposals, to be quick; the modules stay the same.
    if 'rpn_proposal' in cfg.model.get('train_cfg', {}):
        cfg.model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
        rcnn = cfg.model.train_cfg.rcnn
        for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
            stage.sampler.num = 16
        cfg.model.test_cfg.rpn.update(nms_pre=20, max_per_img=10)
    model = build(cfg)
    model.train()
    batch = dict(
        inputs=[torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
                for _ in range(2)],
        data_samples=[sample(size, num_classes, with_masks)
                      for _ in range(2)])
    data = model.data_preprocessor(batch, training=True)
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    assert total.isfinite() and total > 0
    total.backward()
    frozen = ('stem', 'stage2', 'stage3', 'stage4', 'stage5')[
        :cfg.model.backbone.get('frozen_stages', -1) + 1]
    for part, weight in model.backbone.named_parameters():
        # Batch norm may keep the scales it came with.
        if part.split('.')[0] in frozen or '.bn.' in part and \
                not weight.requires_grad:
            assert weight.grad is None, part
        else:
            assert weight.grad is not None and weight.grad.any(), part
    model.eval()
    with torch.inference_mode():
        found = model.test_step(batch)
    assert len(found) == 2
    for one in found:
        instances = one.pred_instances
        assert ((instances.bboxes >= 0) & (instances.bboxes <= size)).all()
        assert (instances.labels < num_classes).all()
        assert ('masks' in instances) == with_masks


@functools.cache
def metafile_models():
    return [model for _, models in read_index(
        str(CONFIGS.parent / 'model-index.yml')) for model in models]


@pytest.mark.parametrize('model', metafile_models(), ids=lambda m: m['Name'])
def test_metafile_knows_the_config(model, load):
    """How images are normalised and how long the training takes."""
    cfg = load(model['Config'].removeprefix('configs/'))
    metadata = model['Metadata']
    order, *numbers = re.fullmatch(
        '(RGB|BGR), mean (.*), std (.*)', metadata['Normalization']).groups()
    preprocessor = cfg.model.get('data_preprocessor') or cfg.data_preprocessor
    # mmpretrain's CIFAR10 gives RGB, what reads files gives BGR.
    assert (order == 'RGB') == (
        'cifar' in model['Config'] or preprocessor.get('bgr_to_rgb')
        or preprocessor.get('to_rgb', False))
    for text, key in zip(numbers, ('mean', 'std')):
        values = [float(number) for number in text.split()]
        values *= 3 // len(values)
        assert values == pytest.approx(preprocessor[key], rel=1e-6)
    if 'train_dataloader' not in cfg:
        return  # for testing what others have trained
    repeats = cfg.train_dataloader.dataset.get('times', 1)
    assert metadata.get('Iterations', metadata.get('Epochs')) == (
        cfg.train_cfg.get('max_iters')
        or cfg.train_cfg.max_epochs * repeats)


@pytest.mark.parametrize(
    'model', [m for m in metafile_models() if 'Weights' not in m],
    ids=lambda m: m['Name'])
def test_starting_weights_are_those_of_the_config(model, load):
    cfg = load(model['Config'].removeprefix('configs/')).model
    init = cfg.backbone.get('init_cfg') or {}
    checkpoint = init.get('checkpoint') if isinstance(init, dict) else None
    first, *others = model['Metadata']['Starting Weights']
    if checkpoint is None:
        assert first == dict(Name='random')
    else:
        entry = KNOWN_WEIGHTS.get(first['Name'])
        assert checkpoint == (entry.url if entry else first['Name'])
        assert first['License'] and first['Source'].startswith('https://')
        assert not entry or first['License'] == entry.license
    for other in others:
        assert other['License'] == KNOWN_WEIGHTS[other['Name']].license
        assert other['Source'].startswith('https://')
        # They are of the same network, and the options are said.
        size = re.search(r'vovnet(\d+)', other['Name'])[1]
        version, mine = re.match(r'V(\d)-(\d+)', cfg.backbone.arch).groups()
        assert mine == size and ('ese' in other['Name']) == (version == '2')
        options = other.get('Options', '')
        assert (version == '1') == ("stem='strided'" in options)
        # Where they want other images, their stem takes the difference.
        wanted = KNOWN_WEIGHTS[other['Name']].normalization
        given = Normalization.from_config(cfg.data_preprocessor)
        folded = 'data_preprocessor' in options
        assert folded != wanted.agrees(given)
        assert have_same_mean(wanted, given) or not folded


def test_configs_normalise_as_their_weights_want(load):
    """Each config that starts from published weights of a VoVNet."""
    published = {e.url: e.normalization for e in KNOWN_WEIGHTS.values()}
    checked = set()
    for name in NAMES:
        model = load(name).model
        init = model.backbone.get('init_cfg') or {}
        if not isinstance(init, dict) or not (
                wanted := published.get(init.get('checkpoint'))):
            continue
        given = Normalization.from_config(model.data_preprocessor)
        folded = init.get('data_preprocessor')
        assert (Normalization.from_config(folded) if folded else wanted
                ).agrees(given), name
        checked.add(Path(name).parts[0])
    assert checked >= {'faster_rcnn', 'mask_rcnn', 'fcos', 'cascade_rcnn',
                       'rtmdet', 'custom'}


def test_1x_is_twelve_epochs_of_sixteen_images(load):
    """The arithmetic that the COCO configs state in their comments."""
    for name in NAMES:
        cfg = load(name)
        if not name.endswith('1x_coco.py'):
            continue
        assert cfg.train_cfg.max_epochs == 12
        assert cfg.param_scheduler[1].milestones == [8, 11]
        rate = cfg.optim_wrapper.optimizer.lr
        assert rate == (0.01 if 'retinanet' in name else 0.02)
