"""DSOD, RefineDet, SSD and Pelee: their authors' settings, one by one.

The figures are those of the papers' Caffe scripts (Pelee: PyTorch), as the
configs name them.
"""
from pathlib import Path

import pytest
from mmengine.config import Config

import vovnet  # noqa: F401
from vovnet.models import VoVNet

CONFIGS = Path(__file__).parents[2] / 'configs'
FILES = [f for folder in ('dsod', 'refinedet', 'ssd', 'pelee')
         for f in sorted((CONFIGS / folder).glob('*.py'))
         if f.stem.endswith(('_coco', '_voc0712'))]


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def cfg(request):
    return Config.fromfile(str(request.param))


def steps(dataset):
    """Pipelines of the data sets inside a wrapper."""
    if 'datasets' in dataset:
        return [p for part in dataset.datasets for p in steps(part)]
    return [dataset.pipeline]


def test_images(cfg):
    """Caffe's mean, in the order of the channels that pretrained weights ask
    for; what is expanded, while it is OpenCV's BGR, gets the mean too."""
    images = cfg.model.data_preprocessor
    folder = Path(cfg.filename).parent.name
    mean = dict(ssd=[127.5] * 3, pelee=[103.94, 116.78, 123.68]).get(
        folder, [104, 117, 123])
    if 'densenet-' in cfg.filename and folder == 'refinedet':
        assert images.mean == [123.675, 116.28, 103.53]  # torchvision's
        assert images.std == [58.395, 57.12, 57.375]
        assert images.bgr_to_rgb
    elif 'vgg16' in cfg.filename:  # mmdet's Caffe weights, channels turned
        assert images.mean == mean[::-1] and images.std == [1] * 3
        assert images.bgr_to_rgb
    else:
        assert images.mean == mean and not images.get('bgr_to_rgb', False)
    for pipeline in steps(cfg.train_dataloader.dataset):
        kinds = [step.type for step in pipeline]
        # Caffe distorts colours first and crops before it warps.
        order = ['LoadImageFromFile', 'LoadAnnotations',
                 'KeepDifficultObjects', 'PhotoMetricDistortion', 'Expand',
                 'MinIoURandomCrop', 'Resize', 'FilterAnnotations',
                 'RandomFlip', 'PackDetInputs']
        if folder == 'pelee':
            del order[3:5]
        if 'voc' not in cfg.filename:
            order.remove('KeepDifficultObjects')
        assert kinds == order
        by_kind = dict(zip(kinds, pipeline))
        if folder != 'pelee':
            assert by_kind['Expand'].mean == mean
            assert by_kind['Expand'].ratio_range == (1, 4)
            assert not by_kind['Expand'].to_rgb
        size = int(Path(cfg.filename).stem.partition('_')[0][-3:])
        assert by_kind['Resize'].scale == (size, size)
        assert not by_kind['Resize'].keep_ratio


def test_evaluation(cfg):
    if 'voc' in cfg.filename:
        assert cfg.test_evaluator.type == 'VOCMetric'
        assert cfg.test_evaluator.eval_mode == '11points'
        assert 'VOC2007/ImageSets/Main/test.txt' in (
            cfg.test_dataloader.dataset.ann_file)
    else:
        assert cfg.test_evaluator.type == 'CocoMetric'


def test_detection(cfg):
    test = cfg.model.test_cfg
    most = (1000, 500) if 'refinedet' in cfg.filename else (400, 200)
    assert (test.nms_pre, test.max_per_img) == most
    assert test.score_thr == 0.01 and test.min_bbox_size == 0
    assert (test.nms.type, test.nms.iou_threshold) == ('nms', 0.45)


def test_multi_box_loss(cfg):
    head, train = cfg.model.bbox_head, cfg.model.train_cfg
    assert head.bbox_coder.target_stds == [0.1, 0.1, 0.2, 0.2]
    modules = [train.arm, train.odm] if 'arm' in train else [train]
    for module in modules:
        assert module.assigner.type == 'BipartiteMaxIoUAssigner'
        assert (module.neg_pos_ratio, module.smoothl1_beta) == (3, 1.0)
        assert module.allowed_border == -1
    if 'arm' in train:
        assert head.objectness_thr == 0.01
        assert head.anchor_generator.center_offset == 0.5
        # Caffe's layers learn biases twice as fast, and let them not decay.
        rule = cfg.optim_wrapper.paramwise_cfg
        assert (rule.bias_lr_mult, rule.bias_decay_mult) == (2, 0)


@pytest.mark.parametrize('data, end, milestones', [
    ('voc0712', 100, [20, 40, 60, 80]),
    ('coco', 320, [80, 140, 200, 260])])
def test_schedule_of_dsod(data, end, milestones):
    files = [f for f in FILES
             if f.parent.name == 'dsod' and f.stem.endswith(data)]
    assert len(files) >= 2
    for file in files:
        cfg = Config.fromfile(str(file))
        assert cfg.train_cfg.max_iters == end * 1000
        [scheduler] = cfg.param_scheduler
        assert scheduler.milestones == [n * 1000 for n in milestones]
        assert scheduler.gamma == 0.1 and not scheduler.by_epoch
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.momentum,
                optimizer.weight_decay) == ('SGD', 0.1, 0.9, 5e-4)
        assert cfg.auto_scale_lr.base_batch_size == 128
        assert cfg.train_dataloader.batch_size * 8 == 128


@pytest.mark.parametrize('name, kind, rate, decay, milestones, gamma', [
    ('ssd/ssd300_mobilenet', 'RMSprop', 5e-4, 5e-5, [20, 40], 0.5),
    ('pelee/pelee304_peleenet', 'SGD', 5e-3, 5e-4, [80, 100], 0.1)])
def test_schedules_of_ssd_and_pelee(name, kind, rate, decay, milestones,
                                    gamma):
    cfg = Config.fromfile(str(CONFIGS / f'{name}_voc0712.py'))
    assert cfg.train_cfg.max_iters == 120_000
    [scheduler] = cfg.param_scheduler
    assert scheduler.milestones == [n * 1000 for n in milestones]
    assert scheduler.gamma == gamma
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == (
        kind, rate, decay)


@pytest.mark.parametrize('file', [
    f for f in FILES if 'refinedet' in f.stem and 'vovnet' in f.stem],
    ids=lambda file: file.stem)
def test_pretrained_weights_can_be_asked_for(file):
    """As the comments say: on the command line, or in a child config."""
    option = dict(type='Pretrained', checkpoint='a.pth')
    cfg = Config.fromfile(str(file))
    cfg.merge_from_dict({f'model.backbone.init_cfg.{key}': value
                         for key, value in option.items()})
    cfg.merge_from_dict({'model.backbone.stem': 'strided',
                         'model.backbone.residual': True})
    assert cfg.model.backbone.init_cfg == option
    backbone = cfg.model.backbone
    backbone.pop('type')
    assert VoVNet(**backbone).variant['stem'] == 'strided'
