"""The recipes of the authors and of mmdet, setting by setting; one's own.

What the authors' have was read in youngwanLEE/vovnet-detectron2@b81c813
(configs/Base-RCNN-VoVNet-FPN.yaml), vov-net/VoVNet-Detectron@0176f70
(configs/vovnet/*.yaml), aim-uofa/AdelaiDet@3672122 (configs/FCOS-Detection)
and in the defaults of detectron2, maskrcnn-benchmark and AdelaiDet, whose
names for it are in the comments. Everything else is compared with the configs
that mmdet installs.
"""
import functools
import re
from pathlib import Path
from unittest import mock

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from vovnet.checkpoints.metafiles import read_index

CONFIGS = Path(__file__).parents[2] / 'configs'
MMDET = Path(mmdet.__file__).parent / '.mim/configs'


def find(*patterns):
    return sorted(str(file.relative_to(CONFIGS).with_suffix(''))
                  for pattern in patterns for file in CONFIGS.glob(pattern))


DETECTRON2 = find('*/*-rcnn_*_d2-3x_coco.py')
FCOS = find('fcos/*.py')
BENCHMARK = find('*/*_mb-2x_coco.py')
SCRATCH = find('*/*_gn-scratch-3x_coco.py')
AUTHORS = DETECTRON2 + FCOS + BENCHMARK + SCRATCH
TWO_STAGE = DETECTRON2 + BENCHMARK + SCRATCH


# For every base in mmdet, MMEngine reads all of mmdet's metafiles.
load_once = functools.cache(load)


@functools.cache
def read(name, folder=CONFIGS):
    """A config as plain containers. Not to be changed."""
    with mock.patch('mmengine.config.utils.load', load_once):
        cfg = Config.fromfile(str(folder / f'{name}.py'))
    return cfg.to_dict()


@functools.cache
def build(name):
    """The detector, without storage. Not to be changed."""
    with torch.device('meta'), \
            DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(Config(read(name)).model).train()


def kind(name):
    return 'mask' if 'mask-rcnn' in name else 'faster'


def test_there_are_recipes():
    """Of each family as many as the authors have, and what is built on it."""
    assert list(map(len, (DETECTRON2, FCOS, BENCHMARK, SCRATCH))) == [
        16, 3, 8, 4]


# -- everything that a config says ------------------------------------------

ABSENT = '(absent)'


def settings(node, name=''):
    """All settings below a node of a config by their dotted names."""
    if isinstance(node, dict):
        items = [item for item in node.items() if item[0] != '_scope_']
    elif isinstance(node, (list, tuple)):
        items = list(enumerate(node))
        if not any(isinstance(value, dict) for value in node):
            return {name: list(node)}
    else:
        return {name: node}
    out = {}
    for key, value in items:
        out |= settings(value, f'{name}.{key}' if name else str(key))
    return out


def differences(name, theirs, *parts):
    """What a config has that one of mmdet has not, or has otherwise."""
    ours, stock = (settings({part: cfg.get(part, {}) for part in parts})
                   for cfg in (read(name), read(theirs, MMDET)))
    found = {key: ours.get(key, ABSENT) for key in ours.keys() | stock.keys()
             if ours.get(key, ABSENT) != stock.get(key, ABSENT)}
    # Those have tests of their own, here and in test_configs.py.
    return {key: value for key, value in found.items() if not key.startswith(
        ('model.backbone.', 'model.neck.in_channels'))}


STOCK = dict(
    faster='faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
    mask='mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
    fcos='fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_'
    '1x_coco')
IMAGES = 'model.data_preprocessor'
# PIXEL_MEAN, PIXEL_STD, INPUT.FORMAT.
DETECTRON2_IMAGES = {
    f'{IMAGES}.mean': [103.53, 116.28, 123.675],
    f'{IMAGES}.std': [1., 1., 1.], f'{IMAGES}.bgr_to_rgb': False}
# FPN.OUT_CHANNELS: 128, which RPN.CONV_DIMS [-1] follows.
LITE = {f'model.{part}': 128 for part in (
    'neck.out_channels', 'rpn_head.in_channels', 'rpn_head.feat_channels',
    'roi_head.bbox_roi_extractor.out_channels',
    'roi_head.bbox_head.in_channels')}
LITE_MASK = {f'model.roi_head.{part}': 128 for part in (
    'mask_roi_extractor.out_channels', 'mask_head.in_channels')}
# PIXEL_MEAN, PIXEL_STD, TO_BGR255; the betas of its smooth L1 losses are in
# its code; RPN.STRADDLE_THRESH.
BENCHMARK_MODEL = {
    f'{IMAGES}.mean': [102.9801, 115.9465, 122.7717],
    f'{IMAGES}.std': [1., 1., 1.], f'{IMAGES}.bgr_to_rgb': False,
    'model.rpn_head.loss_bbox.type': 'SmoothL1Loss',
    'model.rpn_head.loss_bbox.beta': 1 / 9,
    'model.roi_head.bbox_head.loss_bbox.type': 'SmoothL1Loss',
    'model.roi_head.bbox_head.loss_bbox.beta': 1.,
    'model.train_cfg.rpn.allowed_border': 0}
GROUPS = dict(type='GN', num_groups=32, requires_grad=True)
# ROI_BOX_HEAD.FEATURE_EXTRACTOR, NUM_STACKED_CONVS, CONV_HEAD_DIM; USE_GN.
SCRATCH_MODEL = {
    **BENCHMARK_MODEL,
    'model.roi_head.bbox_head.type': 'Shared4Conv1FCBBoxHead',
    'model.roi_head.bbox_head.conv_out_channels': 256,
    **{f'model.{part}.norm_cfg.{key}': value for part in (
        'neck', 'roi_head.bbox_head', 'roi_head.mask_head')
       for key, value in GROUPS.items()}}


@pytest.mark.parametrize('name', TWO_STAGE)
def test_models_are_mmdets_but_for(name):
    if name in DETECTRON2:
        expected = dict(DETECTRON2_IMAGES)
        if 'fpnlite' in name:
            expected |= LITE | (LITE_MASK if kind(name) == 'mask' else {})
    else:
        expected = SCRATCH_MODEL if name in SCRATCH else BENCHMARK_MODEL
    assert differences(name, STOCK[kind(name)], 'model') == expected


DATA = ('train_dataloader', 'val_dataloader', 'test_dataloader',
        'val_evaluator', 'test_evaluator', 'auto_scale_lr', 'custom_hooks')
# Iterations are counted.
ENDLESS = {'train_dataloader.sampler.type': 'InfiniteSampler'}
# Pillow resizes; MIN_SIZE_TRAIN, MAX_SIZE_TRAIN and "choice" of sizes.
PILLOW = {
    **{f'{split}_dataloader.dataset.pipeline.0.imdecode_backend': 'pillow'
       for split in ('train', 'val', 'test')},
    **{f'{split}_dataloader.dataset.pipeline.1.backend': 'pillow'
       for split in ('val', 'test')},
    'train_dataloader.dataset.pipeline.2.type': 'RandomChoiceResize',
    'train_dataloader.dataset.pipeline.2.backend': 'pillow',
    'train_dataloader.dataset.pipeline.2.scale': ABSENT,
    'train_dataloader.dataset.pipeline.2.scales': [
        (1333, side) for side in (640, 672, 704, 736, 768, 800)]}
# INPUT.MASK_FORMAT.
POLYGONS = {'train_dataloader.dataset.pipeline.1.poly2mask': False}


@pytest.mark.parametrize('name', AUTHORS)
def test_data_are_mmdets_but_for(name):
    """8 GPUs with 2 images each, 800 x 1333, flips, COCO 2017."""
    expected = dict(ENDLESS)
    if name in DETECTRON2 + FCOS:
        expected |= PILLOW
        if kind(name) == 'mask':
            expected |= POLYGONS
    stock = STOCK['fcos' if name in FCOS else kind(name)]
    assert differences(name, stock, *DATA) == expected


# Which of mmdet's configs a recipe is, and what it changes.
ALL = ('model', 'train_cfg', 'val_cfg', 'test_cfg', 'optim_wrapper',
       'param_scheduler', *DATA)
TWINS = {
    **{name: (STOCK['faster'], {})
       for name in find('faster_rcnn/*_fpn_1x_coco.py')},
    **{name: (STOCK['mask'], {})
       for name in find('mask_rcnn/*_fpn_1x_coco.py')},
    **{name: ('retinanet/retinanet_r50_fpn_1x_coco', {})
       for name in find('retinanet/*_coco.py')},
    # The warm-up that mmdet gives to COCO comes before the step of VOC.
    'retinanet/retinanet_vovnet-39_fpn_1x_voc0712': (
        'pascal_voc/retinanet_r50_fpn_1x_voc0712', {
            'param_scheduler.0.type': 'LinearLR',
            'param_scheduler.0.start_factor': 0.001,
            'param_scheduler.0.by_epoch': False,
            'param_scheduler.0.end': 500,
            'param_scheduler.0.gamma': ABSENT,
            'param_scheduler.0.milestones': ABSENT,
            'param_scheduler.1.type': 'MultiStepLR',
            'param_scheduler.1.begin': 0,
            'param_scheduler.1.by_epoch': True,
            'param_scheduler.1.end': 4,
            'param_scheduler.1.gamma': 0.1,
            'param_scheduler.1.milestones': [3]}),
    'cascade_rcnn/cascade-mask-rcnn_vovnetv2-39_fpn_ms-3x_coco': (
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_ms-3x_coco', {
            # Masks are evaluated too.
            **{f'{split}_evaluator.{key}': value for split in ('val', 'test')
               for key, value in (('metric', ['bbox', 'segm']),
                                  ('format_only', False))},
            'train_dataloader.dataset.dataset.pipeline.1.poly2mask': False}),
    # mmdet leaves the 16 of its base there; the rate is for 8 x 32 images.
    'rtmdet/rtmdet_vovnetv2-39_8xb32-300e_coco': (
        'rtmdet/rtmdet_l_8xb32-300e_coco', {
            'auto_scale_lr.base_batch_size': 256})}


@pytest.mark.parametrize('name', TWINS)
def test_mmdets_recipes_with_another_backbone(name):
    theirs, expected = TWINS[name]
    assert differences(name, theirs, *ALL) == expected


def test_every_recipe_is_compared():
    assert sorted([*AUTHORS, *TWINS]) == find(*(
        f'{folder}/*.py' for folder in (
            'faster_rcnn', 'mask_rcnn', 'fcos', 'retinanet', 'cascade_rcnn',
            'rtmdet')))


FROZEN = dict(norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True)
SYNC = dict(norm_cfg=dict(type='SyncBN', requires_grad=True))
RELEASED = dict(stem='strided', residual=True)
BACKBONES = {
    # VOVNET.NORM FrozenBN, BACKBONE.FREEZE_AT 0.
    **dict.fromkeys(DETECTRON2, FROZEN),
    # VOVNET.OUT_FEATURES stage3 to stage5.
    **dict.fromkeys(FCOS, dict(FROZEN, out_indices=[1, 2, 3])),
    # FREEZE_CONV_BODY_AT 0; its code has frozen batch norm.
    **dict.fromkeys(BENCHMARK, FROZEN | RELEASED),
    # VOVNET.USE_GN.
    **dict.fromkeys(SCRATCH, dict(
        norm_cfg=GROUPS, norm_eval=False) | RELEASED),
    **dict.fromkeys(TWINS, SYNC),
    # timm's weights have eSE in last blocks only.
    'cascade_rcnn/cascade-mask-rcnn_vovnetv2-39_fpn_ms-3x_coco': dict(
        SYNC, ese='last'),
    'rtmdet/rtmdet_vovnetv2-39_8xb32-300e_coco': dict(
        norm_cfg=dict(type='SyncBN'), ese='last', out_indices=[1, 2, 3])}


@pytest.mark.parametrize('name', BACKBONES)
def test_options_of_the_backbone(name):
    """All but the arch, which the file's name tells, and the weights."""
    backbone = {key: list(value) if isinstance(value, tuple) else value
                for key, value in read(name)['model']['backbone'].items()
                if key not in ('arch', 'init_cfg', '_scope_')}
    if 'mask-rcnn_r' in name:
        assert backbone == dict(
            type='ResNet', depth=101 if 'r101' in name else 50,
            zero_init_residual=False, norm_cfg=GROUPS)
        assert build(name).backbone.style == 'pytorch'  # STRIDE_IN_1X1 False
    else:
        assert backbone == dict(BACKBONES[name], type='VoVNet')


TIMM = 'timm://ese_vovnet39b.ra_in1k'
VD2 = 'https://www.dropbox.com/s/{}_detectron2.pth?dl=1'
VDET1 = 'https://dl.dropbox.com/s/{}?dl=1'
WEIGHTS = {
    'V2-19-slim-dw': VD2.format('f3s7ospitqoals1/vovnet19_ese_slim_dw'),
    'V2-19-slim': VD2.format('8h5ybmi4ftbcom0/vovnet19_ese_slim'),
    'V2-19-dw': VD2.format('9awvl0mxye3nqz1/vovnet19_ese_dw'),
    'V2-19': VD2.format('rptgw6stppbiw1u/vovnet19_ese'),
    'V2-39': VD2.format('q98pypf96rhtd8y/vovnet39_ese'),
    'V2-57': VD2.format('8xl0cb3jj51f45a/vovnet57_ese'),
    'V2-99': VD2.format('1mlv31coewx8trd/vovnet99_ese'),
    'V1-39': VDET1.format('s7f4vyfybyc9qpr/vovnet39_statedict_norm.pth'),
    'V1-57': VDET1.format('b826phjle6kbamu/vovnet57_statedict_norm.pth'),
    'V1-75': VDET1.format('ve1h1ol2ge7yfta/vovnet75_statedict_norm.pth.tar'),
    'V1-93': VDET1.format('qtly316zv1isn0t/vovnet93_statedict_norm.pth.tar')}


@pytest.mark.parametrize('name', BACKBONES)
def test_weights_that_a_recipe_starts_from(name):
    backbone = read(name)['model']['backbone']
    if name in DETECTRON2 + FCOS + BENCHMARK:
        expected = dict(checkpoint=WEIGHTS[backbone['arch']])
    elif name.startswith('cascade'):
        expected = dict(checkpoint=TIMM)
    elif name.startswith('rtmdet'):
        # RTMDet's BGR images go into the stem.
        expected = dict(checkpoint=TIMM, data_preprocessor=dict(
            mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395],
            bgr_to_rgb=False))
    else:
        expected = None
    assert backbone.get('init_cfg') == (
        expected and dict(expected, type='Pretrained'))


# -- schedules --------------------------------------------------------------

# BASE_LR, WARMUP_FACTOR, WARMUP_ITERS, STEPS and MAX_ITER of SOLVER; 0.001 is
# the factor of one of maskrcnn-benchmark's eight files.
THREE_X = (1 / 1000, 1000, [210000, 250000], 270000)
SCHEDULES = {
    **dict.fromkeys(DETECTRON2, (0.02, *THREE_X)),
    **dict.fromkeys(FCOS, (0.01, *THREE_X)),
    **dict.fromkeys(BENCHMARK, (0.02, 1 / 100, 500, [120000, 160000], 180000)),
    'faster_rcnn/faster-rcnn_vovnet-39_fpn_mb-2x_coco': (
        0.02, 1 / 1000, 500, [120000, 160000], 180000),
    **dict.fromkeys(SCRATCH, (0.02, 1 / 3, 500, [210000, 250000], 270000))}


@pytest.mark.parametrize('name', SCHEDULES)
def test_schedules(name):
    rate, factor, warm_up, steps, end = SCHEDULES[name]
    cfg = read(name)
    assert cfg['train_cfg'] == dict(
        type='IterBasedTrainLoop', max_iters=end, val_interval=end // 9)
    assert settings(cfg['param_scheduler']) == settings([
        dict(type='LinearLR', start_factor=factor, by_epoch=False, begin=0,
             end=warm_up),
        dict(type='MultiStepLR', by_epoch=False, milestones=steps,
             gamma=0.1)])
    optimizer = dict(cfg['optim_wrapper'])
    del optimizer['paramwise_cfg']  # the next test's
    assert optimizer == dict(type='OptimWrapper', optimizer=dict(
        type='SGD', lr=rate, momentum=0.9, weight_decay=1e-4))
    assert cfg['default_hooks']['checkpoint']['by_epoch'] is False


@pytest.mark.parametrize('name', AUTHORS)
def test_rate_and_decay_of_every_parameter(name):
    """BIAS_LR_FACTOR 2 and WEIGHT_DECAY_BIAS 0 of whatever is called bias in
    maskrcnn-benchmark, WEIGHT_DECAY_NORM 0 in detectron2."""
    model = build(name)
    of_norms = {id(weight) for module in model.modules()
                if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d))
                for weight in module.parameters()}
    rate = SCHEDULES[name][0]
    expected = {}
    for key, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        expected[id(weight)] = rate, 0 if id(weight) in of_norms else 1e-4
        if name in BENCHMARK + SCRATCH:
            expected[id(weight)] = (
                2 * rate, 0) if 'bias' in key else (rate, 1e-4)
    optimizer = build_optim_wrapper(
        model, Config(read(name)).optim_wrapper).optimizer
    assert {id(weight): (group['lr'], group['weight_decay'])
            for group in optimizer.param_groups
            for weight in group['params']} == expected


# -- what is built ----------------------------------------------------------


@pytest.mark.parametrize('name', AUTHORS)
def test_what_learns(name):
    """Nothing is frozen but batch norm: statistics, scales and offsets."""
    model = build(name)
    norms = {key: module for key, module in model.named_modules()
             if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d))}
    frozen = {f'{key}.{leaf}' for key, module in norms.items()
              if isinstance(module, nn.BatchNorm2d)
              for leaf in ('weight', 'bias')}
    assert {key for key, weight in model.named_parameters()
            if not weight.requires_grad} == frozen
    assert not any(module.training for module in norms.values()
                   if isinstance(module, nn.BatchNorm2d))
    grouped = [key for key, module in norms.items()
               if isinstance(module, nn.GroupNorm)]
    assert all(norms[key].num_groups == 32 for key in grouped)
    where = {key.partition('.')[0] for key in grouped}
    if name in SCRATCH:
        assert where == {'backbone', 'neck', 'roi_head'} and not frozen
        assert {key.split('.')[1] for key in grouped
                if key.startswith('roi_head')} == {'bbox_head', 'mask_head'}
    else:
        assert where == ({'bbox_head'} if name in FCOS else set())
        assert frozen and all(key.startswith('backbone.') for key in frozen)


def sizes(layers):
    return [(*layer.weight.shape,) for layer in layers]


@pytest.mark.parametrize('name', TWO_STAGE)
def test_proposals_and_boxes(name):
    """What the authors' libraries have alike, and mmdet too."""
    model = build(name)
    width = 128 if 'fpnlite' in name else 256
    # ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS, on P2 to P6.
    anchors = read(name)['model']['rpn_head']['anchor_generator']
    assert settings(anchors) == dict(
        type='AnchorGenerator', scales=[8], strides=[4, 8, 16, 32, 64],
        ratios=[0.5, 1., 2.])
    assert model.neck.num_outs == 5 and not model.neck.add_extra_convs
    assert sizes([model.rpn_head.rpn_conv]) == [(width, width, 3, 3)]
    # RPN.{PRE,POST}_NMS_TOPK_{TRAIN,TEST}, NMS_THRESH, IOU_THRESHOLDS,
    # BATCH_SIZE_PER_IMAGE, POSITIVE_FRACTION.
    train, test = model.train_cfg, model.test_cfg
    for cfg, before in ((train.rpn_proposal, 2000), (test.rpn, 1000)):
        assert (cfg.nms_pre, cfg.max_per_img) == (before, 1000)
        assert (cfg.nms.type, cfg.nms.iou_threshold) == ('nms', 0.7)
    assigner, sampler = train.rpn.assigner, train.rpn.sampler
    assert (assigner.neg_iou_thr, assigner.pos_iou_thr) == (0.3, 0.7)
    assert (sampler.num, sampler.pos_fraction) == (256, 0.5)
    # The same of ROI_HEADS; PROPOSAL_APPEND_GT.
    assigner, sampler = train.rcnn.assigner, train.rcnn.sampler
    assert (assigner.neg_iou_thr, assigner.pos_iou_thr) == (0.5, 0.5)
    assert (sampler.num, sampler.pos_fraction,
            sampler.add_gt_as_proposals) == (512, 0.25, True)
    # SCORE_THRESH_TEST, NMS_THRESH_TEST, TEST.DETECTIONS_PER_IMAGE.
    assert (test.rcnn.score_thr, test.rcnn.nms.type,
            test.rcnn.nms.iou_threshold, test.rcnn.max_per_img) == (
                0.05, 'nms', 0.5, 100)
    # BBOX_REG_WEIGHTS (10, 10, 5, 5), CLS_AGNOSTIC_BBOX_REG False: 4 x 80.
    head = model.roi_head.bbox_head
    assert [1 / std for std in head.bbox_coder.stds] == [10, 10, 5, 5]
    assert [*model.rpn_head.bbox_coder.stds] == [1, 1, 1, 1]
    assert sizes([head.fc_cls, head.fc_reg]) == [(81, 1024), (320, 1024)]
    # 2 layers of 1024, or 4 convolutions and one such layer.
    if name in SCRATCH:
        assert sizes(layer.conv for layer in head.shared_convs) == [
            (256, 256, 3, 3)] * 4
        assert sizes(head.shared_fcs) == [(1024, 7 * 7 * 256)]
    else:
        assert not len(head.shared_convs)
        assert sizes(head.shared_fcs) == [
            (1024, 7 * 7 * width), (1024, 1024)]
    if kind(name) == 'mask':
        # NUM_CONV 4, CONV_DIM 256, POOLER_RESOLUTION 14, CLS_AGNOSTIC_MASK
        # False; masks of 28 x 28.
        head = model.roi_head.mask_head
        assert sizes(layer.conv for layer in head.convs) == [
            (256, width, 3, 3)] + [(256, 256, 3, 3)] * 3
        assert sizes([head.conv_logits]) == [(80, 256, 1, 1)]
        assert model.roi_head.mask_roi_extractor.roi_layers[
            0].output_size == (14, 14)
        assert train.rcnn.mask_size == 28
        assert test.rcnn.mask_thr_binary == 0.5


@pytest.mark.parametrize('name', FCOS)
def test_fcos(name):
    """MODEL.FCOS of AdelaiDet's defaults."""
    model = build(name)
    assert read(name)['model']['data_preprocessor'] == dict(
        type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675],
        std=[1, 1, 1], bgr_to_rgb=False, pad_size_divisor=32)
    # TOP_LEVELS 2: P6 from P5, P7 from P6 behind a ReLU.
    assert model.neck.add_extra_convs == 'on_output'
    assert model.neck.relu_before_extra_convs
    convs = [layer.conv for layer in model.neck.fpn_convs]
    assert sizes(convs) == [(256, 256, 3, 3)] * 5
    assert [conv.stride[0] for conv in convs] == [1, 1, 1, 2, 2]
    head = model.bbox_head
    # FPN_STRIDES, SIZES_OF_INTEREST.
    assert list(head.strides) == [8, 16, 32, 64, 128]
    bounds = [upper for _, upper in head.regress_ranges]
    assert bounds[:4] == [64, 128, 256, 512] and bounds[4] >= 1333
    assert [lower for lower, _ in head.regress_ranges] == [-1, *bounds[:4]]
    # NUM_CLS_CONVS, NUM_BOX_CONVS, NORM, USE_SCALE; the towers have biases.
    for tower in (head.cls_convs, head.reg_convs):
        assert sizes(layer.conv for layer in tower) == [(256, 256, 3, 3)] * 4
        for layer in tower:
            assert layer.conv.bias is not None
            assert isinstance(layer.norm, nn.GroupNorm)
    assert len(head.scales) == 5
    assert sizes([head.conv_cls, head.conv_reg, head.conv_centerness]) == [
        (n, 256, 3, 3) for n in (80, 4, 1)]
    # CENTER_SAMPLE, POS_RADIUS; distances in strides, and centerness beside
    # them, as its code has it.
    assert (head.center_sampling, head.center_sample_radius) == (True, 1.5)
    assert head.norm_on_bbox and head.centerness_on_reg
    # LOSS_ALPHA, LOSS_GAMMA, LOC_LOSS_TYPE, PRIOR_PROB.
    assert (head.loss_cls.alpha, head.loss_cls.gamma) == (0.25, 2)
    assert type(head.loss_bbox).__name__ == 'GIoULoss'
    assert {loss.loss_weight for loss in (
        head.loss_cls, head.loss_bbox, head.loss_centerness)} == {1}
    assert head.init_cfg['override']['bias_prob'] == 0.01
    # PRE_NMS_TOPK_TEST, INFERENCE_TH_TEST, NMS_TH, POST_NMS_TOPK_TEST.
    test = model.test_cfg
    assert (test.nms_pre, test.score_thr, test.max_per_img) == (
        1000, 0.05, 100)
    assert (test.nms.type, test.nms.iou_threshold) == ('nms', 0.6)


# -- what their authors measured --------------------------------------------

# Milliseconds an image, box AP and mask AP (all, of small, medium and large
# objects; in the paper all, AP50, AP75), and the address on Dropbox.
FIGURES = """
faster-rcnn_vovnetv2-19_fpnlite_d2-3x 34 38.9 24.8 41.7 49.3 u5pvmhc871ohvgw
faster-rcnn_vovnetv2-19-dw_fpnlite_d2-3x 27 36.7 22.7 40.0 46.0 7h6zn0owumucs48
faster-rcnn_vovnetv2-19-slim_fpnlite_d2-3x 23 35.2 21.7 37.3 44.4 \
yao1i32zdylx279
faster-rcnn_vovnetv2-19-slim-dw_fpnlite_d2-3x 22 32.4 19.1 34.6 41.8 \
blpjx3iavrzkygt
faster-rcnn_vovnetv2-19_fpn_d2-3x 40 38.9 24.9 41.5 48.8 1rfvi6vzx45z6y5
faster-rcnn_vovnetv2-39_fpn_d2-3x 47 42.7 27.1 45.6 54.0 dkto39ececze6l4
faster-rcnn_vovnetv2-57_fpn_d2-3x 54 43.3 27.5 46.7 55.3 c7mb1mq10eo4pzk
faster-rcnn_vovnetv2-99_fpn_d2-3x 73 44.1 28.1 47.0 56.4 v64mknwzfpmfcdh
mask-rcnn_vovnetv2-19_fpnlite_d2-3x \
36 39.7 25.1 42.6 50.8 36.4 19.9 38.8 50.8 h1khv9l7quakvz0
mask-rcnn_vovnetv2-19_fpn_d2-3x \
44 40.1 25.4 43.0 51.0 36.6 19.7 38.7 51.2 dyeyuag5va96tqo
mask-rcnn_vovnetv2-39_fpn_d2-3x \
52 43.8 27.6 47.2 55.3 39.3 21.4 41.8 54.6 c5o3yr6lwrb1170
mask-rcnn_vovnetv2-57_fpn_d2-3x \
58 44.2 28.2 47.2 56.8 39.7 21.6 42.2 55.6 aturknfroupyw92
mask-rcnn_vovnetv2-99_fpn_d2-3x \
76 44.9 28.5 48.1 57.7 40.3 21.7 42.8 56.6 qx45cnv718k4zmn
faster-rcnn_vovnet-39_fpn_mb-2x 78 39.8 23.7 42.6 51.5 -
faster-rcnn_vovnet-57_fpn_mb-2x 87 40.8 24.8 43.8 52.4 -
faster-rcnn_vovnet-75_fpn_mb-2x 96 41.2 24.1 44.3 53.0 -
faster-rcnn_vovnet-93_fpn_mb-2x 110 41.8 24.8 45.1 53.8 -
mask-rcnn_vovnet-39_fpn_mb-2x 81 41.0 24.6 43.9 53.1 36.7 17.9 39.3 53.0 -
mask-rcnn_vovnet-57_fpn_mb-2x 90 42.0 25.1 44.9 53.8 37.5 18.3 39.8 54.3 -
mask-rcnn_vovnet-75_fpn_mb-2x 106 42.4 26.0 45.5 54.8 37.7 18.9 40.4 54.9 -
mask-rcnn_vovnet-93_fpn_mb-2x 114 42.7 24.9 45.8 55.3 38.0 17.7 40.9 55.2 -
mask-rcnn_r50_fpn_gn-scratch-3x 157 39.5 59.8 43.6 35.2 56.9 37.6 -
mask-rcnn_r101_fpn_gn-scratch-3x 185 41.0 61.1 44.9 36.4 58.2 38.7 -
mask-rcnn_vovnet-39_fpn_gn-scratch-3x 152 41.7 62.2 45.8 36.8 59.0 39.5 -
mask-rcnn_vovnet-57_fpn_gn-scratch-3x 159 41.9 62.1 46.0 37.0 59.3 39.7 -
fcos_vovnetv2-39_fpn_gn-head_d2-3x 45 43.5 28.1 47.2 54.5 -
"""


@functools.cache
def zoo():
    return {model['Name']: model for _, models in read_index(
        str(CONFIGS.parent / 'model-index.yml')) for model in models}


@pytest.mark.parametrize('line', FIGURES.strip().splitlines(),
                         ids=lambda line: line.split()[0])
def test_published_figures(line):
    name, time, *figures, address = line.split()
    model = zoo()[f'{name}_coco']
    sizes = ('50', '75') if 'scratch' in name else ('s', 'm', 'l')
    parts = ('box', 'mask') if 'mask-rcnn' in name else ('box', )
    assert {key: value for result in model['Results']
            for key, value in result['Metrics'].items()} == {
        f'{part} AP{size}': float(figures.pop(0))
        for part in parts for size in ('', *sizes)}
    assert not figures
    measured, = model['Metadata']['inference time (ms/im)']
    assert measured['value'] == int(time)
    assert address == '-' or address in model['Weights']


# -- files that a user copies -----------------------------------------------


def mine(template, path, **block):
    """A copy in which every line between the rules is another."""
    text = (CONFIGS / f'custom/{template}.py').read_text()
    lines = ''.join(f'{name} = {value!r}\n' for name, value in block.items())
    text, found = re.subn(r'(?s)(# -+ yours to change.*?\n).*?(\n# -{40})',
                          rf'\g<1>{lines}\g<2>', text)
    assert found == 1
    path.write_text(text.replace("'../_base_", f"'{CONFIGS}/_base_"))
    return Config.fromfile(str(path))


ANNOTATIONS = dict(
    coco={f'{split}_{what}': f'{split}-{what}'
          for split in ('train', 'val', 'test') for what in ('ann', 'images')},
    voc={f'{split}_split': f'{split}-split'
         for split in ('train', 'val', 'test')})
SMALL = 'retinanet_vovnet-27-slim_fpn_my-'
FINE_TUNED = 'faster-rcnn_vovnetv2-39_fpn_my-coco'


@pytest.mark.parametrize('template, size', [
    (f'{SMALL}coco', dict(scale=(200, 100))),
    (f'{SMALL}voc', dict(scale=(200, 100))),
    (FINE_TUNED, dict(scales=[(200, 60), (200, 100)], load_from='x.pth'))])
def test_every_line_of_the_block_counts(template, size, tmp_path):
    layout = template.rpartition('-')[2]
    cfg = mine(template, tmp_path / 'mine.py', **ANNOTATIONS[layout],
               data_root='root', classes=('a', 'b', 'c'), max_epochs=36,
               batch_size=3, **size)
    assert cfg.get('load_from') == size.get('load_from')
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        assert loader.dataset.data_root == 'root'
        assert loader.dataset.metainfo.classes == ('a', 'b', 'c')
        assert loader.dataset.ann_file == (
            f'{split}-ann' if layout == 'coco' else f'{split}-split')
        assert loader.dataset.data_prefix == (
            dict(img=f'{split}-images') if layout == 'coco' else
            dict(sub_data_root=''))
        if layout == 'coco' and split != 'train':
            evaluator = cfg[f'{split}_evaluator']
            assert evaluator.ann_file == f'root/{split}-ann'
    assert cfg.train_dataloader.batch_size == 3
    # Images are tested at the largest size of the training.
    steps = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
    assert steps['Resize'].scale == (200, 100)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    if template == FINE_TUNED:
        assert steps['RandomChoiceResize'].scales == size['scales']
        assert cfg.param_scheduler[1].milestones == [24, 33]
    else:
        assert steps['RandomResize'].scale == (200, 100)
        assert steps['RandomCrop'].crop_size == (200, 100)
        assert cfg.param_scheduler[1].end == 36
    assert cfg.train_cfg.max_epochs == 36
    head = cfg.model.get('bbox_head') or cfg.model.roi_head.bbox_head
    assert head.num_classes == 3


def test_every_line_of_the_block_of_a_classifier_counts(tmp_path):
    cfg = mine('classifier_vovnet-27-slim_my-images', tmp_path / 'mine.py',
               data_root='root', train_images='train-images',
               val_images='val-images', test_images='test-images',
               num_classes=7, max_epochs=36, batch_size=3, num_workers=0,
               size=224)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        assert (loader.dataset.data_root, loader.dataset.data_prefix) == (
            'root', f'{split}-images')
        assert (loader.batch_size, loader.num_workers,
                loader.persistent_workers) == (3, 0, False)
        steps = {step.type: step for step in loader.dataset.pipeline}
        if split == 'train':
            assert steps['RandomResizedCrop'].scale == 224
        else:  # as ImageNet is tested
            assert steps['ResizeEdge'].scale == 256
            assert steps['CenterCrop'].crop_size == 224
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == 7
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 36


def test_arithmetic_of_fine_tuning():
    """A tenth after 16 and a hundredth after 22 of 24; half of what COCO's
    0.02 for 16 images is for 4."""
    cfg = read(f'custom/{FINE_TUNED}')
    assert cfg['max_epochs'] == 24
    steps = cfg['param_scheduler'][1]
    assert (steps['milestones'], steps['gamma']) == ([16, 22], 0.1)
    batch = cfg['train_dataloader']['batch_size']
    assert batch == cfg['auto_scale_lr']['base_batch_size'] == 4
    assert cfg['optim_wrapper']['optimizer']['lr'] == 0.02 / 16 * batch / 2


def test_anchors_of_the_small_detector():
    """Of 24 to 305 px, on strides 8 to 64."""
    cfg = Config(read(f'custom/{SMALL}coco'))
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = MODELS.build(cfg.model).bbox_head
    assert [stride[0] for stride in head.prior_generator.strides] == [
        8, 16, 32, 64]
    sides = [((box[2] - box[0]) * (box[3] - box[1]))**0.5
             for level in head.prior_generator.base_anchors for box in level]
    assert round(float(min(sides))) == 24 and round(float(max(sides))) == 305
