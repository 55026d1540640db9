"""The classifiers' configs: parse, build, learn, and state their recipe."""
import copy
import functools
import json
import re
from pathlib import Path

import vovnet  # isort: skip  # before mmdet, for mmcv's operators
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.models import ImageClassifier, LinearClsHead
from mmpretrain.structures import DataSample

from vovnet.engine.build import build_network
from vovnet.models import CIFARNet, VoVNet

CONFIGS = Path(__file__).parents[2] / 'configs'
NAMES = [str(f.relative_to(CONFIGS)) for folder in (
    'cifar/*.py', 'imagenet/*.py', '*/classifier_*.py')
    for f in sorted(CONFIGS.glob(folder))]
CIFAR = [n for n in NAMES if n.endswith('cifar10.py')]
IMAGENET = [n for n in NAMES if n.startswith('imagenet')]
TIMM = [n for n in IMAGENET if '_timm_' in n]
ARCHS = ('V1-27-slim', 'V1-39', 'V1-57', 'V2-19-slim-dw', 'V2-19', 'V2-39',
         'V2-57', 'V2-99')


@functools.cache
def read(name):
    return Config.fromfile(str(CONFIGS / name))


def load(name):
    return copy.deepcopy(read(name))


def test_there_are_configs():
    assert len(CIFAR) == 3
    assert {n.split('/')[0] for n in NAMES} == {
        'cifar', 'custom', 'demo', 'imagenet'}
    for recipe in ('8xb32', '8xb256-rsb-a2-300e'):
        found = {read(n).model.backbone.arch for n in IMAGENET
                 if n.endswith(f'_{recipe}_in1k.py')}
        assert found == set(ARCHS)
    assert {read(n).model.backbone.arch for n in TIMM} == {
        'V2-19-dw', 'V2-39', 'V2-57'}


@pytest.mark.parametrize('name', NAMES)
def test_config_is_complete(name):
    cfg = load(name)
    assert cfg.default_scope == 'mmpretrain'
    assert cfg.custom_imports.imports == ['vovnet']
    kinds = {b['type'] for b in cfg.vis_backends}
    assert {'LocalVisBackend', 'TensorboardVisBackend'} <= kinds
    assert 'test_dataloader' in cfg and 'test_evaluator' in cfg
    assert ('train_dataloader' in cfg) == ('val_dataloader' in cfg) == (
        name not in TIMM)
    if name not in TIMM:
        base, size = (cfg.auto_scale_lr.base_batch_size,
                      cfg.train_dataloader.batch_size)
        if gpus := re.search(r'_(\d+)xb(\d+)[-_]', name):
            assert (base, size) == (int(gpus[1]) * int(gpus[2]), int(gpus[2]))
        else:
            assert base == size
    # The file's name tells the arch.
    found = re.search(r'vovnet(v2)?-([\w-]+?)_', name)
    assert bool(found) == (cfg.model.backbone.type == 'VoVNet')
    if found:
        version, size = found.groups()
        assert cfg.model.backbone.arch == f'V{2 if version else 1}-{size}'
    else:
        assert Path(name).stem.startswith(
            cfg.model.backbone.arch.replace('/', '-').lower())


@pytest.mark.parametrize('name', NAMES)
def test_head_takes_what_the_backbone_gives(name):
    cfg = load(name)
    kind = dict(VoVNet=VoVNet, CIFARNet=CIFARNet)[cfg.model.backbone.pop(
        'type')]
    cfg.model.backbone.pop('norm_cfg', None)
    with torch.device('meta'):
        declared = kind(**cfg.model.backbone)
    assert cfg.model.head.in_channels == declared.out_channels[-1]
    assert len(declared.out_channels) == 1
    classes = cfg.model.head.num_classes
    assert classes == cfg.data_preprocessor.num_classes
    data = [cfg[k].dataset.type for k in cfg if k.endswith('_dataloader')]
    assert len(set(data)) == 1
    assert classes == dict(ImageNet=1000, CIFAR10=10).get(data[0], classes)


@pytest.mark.parametrize('name', CIFAR)
def test_recipe_of_densenet(name):
    """64 images in all; 300 epochs, steps at 1/2 and 3/4."""
    cfg = load(name)
    assert cfg.auto_scale_lr.base_batch_size == 64
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.param_scheduler.milestones == [150, 225]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum,
            optimizer.weight_decay, optimizer.nesterov) == (
                'SGD', 0.1, 0.9, 1e-4, True)
    for split in ('train', 'val', 'test'):
        data = cfg[f'{split}_dataloader'].dataset
        assert (data.type, data.download) == ('CIFAR10', False)


@pytest.mark.parametrize(
    'name', [n for n in IMAGENET if n.endswith('_8xb32_in1k.py')])
def test_recipe_of_the_authors(name):
    """That of pytorch/examples, for 90 epochs (their README)."""
    cfg = load(name)
    assert cfg.auto_scale_lr.base_batch_size == 256
    assert cfg.train_cfg.max_epochs == 90
    assert cfg.param_scheduler.type == 'MultiStepLR'
    assert cfg.param_scheduler.milestones == [30, 60]
    assert cfg.param_scheduler.gamma == 0.1
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum,
            optimizer.weight_decay) == ('SGD', 0.1, 0.9, 1e-4)
    assert [step.type for step in cfg.train_pipeline] == [
        'LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']
    # torchvision's resizing is Pillow's.
    assert cfg.train_pipeline[1].backend == 'pillow'


@pytest.mark.parametrize(
    'name', [n for n in IMAGENET if n.endswith('-rsb-a2-300e_in1k.py')])
def test_modern_recipe(name):
    """Beside mmpretrain's own config of it, but for what the file names."""
    cfg = load(name)
    theirs = Config.fromstring("_base_ = 'mmpretrain::resnet/"
                               "resnet50_8xb256-rsb-a2-300e_in1k.py'", '.py')
    for part in ('optim_wrapper', 'param_scheduler', 'train_dataloader',
                 'val_dataloader', 'data_preprocessor', 'auto_scale_lr'):
        assert cfg[part] == theirs[part], part
    assert cfg.train_cfg == theirs.train_cfg
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.model.train_cfg == theirs.model.train_cfg
    assert cfg.model.head.loss.use_sigmoid
    assert cfg.model.backbone.norm_cfg.type == 'SyncBN'
    average, = cfg.custom_hooks
    assert average.type == 'EMAHook' and average.update_buffers


def distinct_models():
    """The first config of each backbone; both losses are among them."""
    first = {}
    for name in NAMES:
        backbone = read(name).model.backbone.to_dict()
        backbone.pop('norm_cfg', None)  # SyncBN is BN in one process
        first.setdefault(json.dumps(backbone, sort_keys=True), name)
    return list(first.values())


@pytest.mark.parametrize('name', distinct_models())
def test_classifier_learns(name):
    torch.manual_seed(0)
    model = build_network(load(name))
    assert type(model) is ImageClassifier
    assert type(model.head) is LinearClsHead
    size = 32 if name.startswith('cifar') else 64
    classes = model.head.num_classes
    batch = dict(
        inputs=[torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
                for _ in range(4)],
        data_samples=[DataSample().set_gt_label(i % classes)
                      for i in range(4)])
    data = model.data_preprocessor(batch, training=True)
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.02, 0.9), []
    for _ in range(3):
        loss = model(**data, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.abs().sum() > 0
               for p in model.parameters())
    assert losses[-1] < losses[0]
    model.eval()
    with torch.inference_mode():
        found = model.test_step(batch)
    assert all(one.pred_score.shape == (classes, ) for one in found)


def test_a_detector_and_a_classifier_in_one_process():
    """Each scope finds its own parts, in either order, and one backbone."""
    detector = Config.fromfile(str(
        CONFIGS / 'demo/retinanet_vovnet-27-slim_fpn_shapes.py'))
    classifier = load('demo/classifier_vovnet-27-slim_shapes.py')
    for _ in range(2):
        built = {}
        for cfg in (detector, classifier):
            model = build_network(copy.deepcopy(cfg))
            built[cfg.default_scope] = model
            assert type(model).__module__.startswith(cfg.default_scope)
            assert type(model.backbone) is vovnet.models.VoVNet
        shared = built['mmdet'].backbone.state_dict().keys()
        assert shared == built['mmpretrain'].backbone.state_dict().keys()
    # A name that both libraries have is the scope's own.
    for scope in ('mmdet', 'mmpretrain'):
        with DefaultScope.overwrite_default_scope(scope):
            resnet = MODELS.build(dict(type='ResNet', depth=18))
            assert type(resnet).__module__.startswith(scope)
