"""Networks of configs: their parts, inputs, proposals and published costs."""
import pytest
from mmengine.config import Config

from vovnet.analysis import compute_config_complexity
from vovnet.engine.build import get_input_shape
from vovnet.engine.config import load_config
from vovnet.utils.errors import UserError

RETINANET = 'configs/retinanet/retinanet_vovnet-39_fpn_1x_coco.py'


def test_retinanet_part_by_part():
    found = compute_config_complexity(load_config(RETINANET), [128, 128])
    assert found.input == (1, 3, 128, 128) and not found.uncounted
    assert list(found.parts) == ['backbone', 'neck', 'bbox_head']
    # Strides 8 to 128: both branches have 4 convolutions of 256 channels,
    # and there are 9 anchors, 80 classes and 4 coordinates.
    pixels = sum(side * side for side in (16, 8, 4, 2, 1))
    weights = 9 * 256 * (2 * 4 * 256 + 9 * (80 + 4))
    assert found.parts['bbox_head'].macs == pixels * weights
    assert found.parts['bbox_head'].params == \
        weights + 2 * 4 * 256 + 9 * (80 + 4)  # shared by all levels
    # FPN: 1x1 of three outputs, 3x3 of the three sums, P6 from C5, P7.
    assert found.parts['neck'].macs == 256 * sum(
        side * side * n for side, n in (
            (16, 512 + 9 * 256), (8, 768 + 9 * 256), (4, 1024 + 9 * 256),
            (2, 9 * 1024), (1, 9 * 256)))


@pytest.mark.parametrize('config, parts', [
    (RETINANET, ['stem', 'stage2', 'stage3', 'stage4', 'stage5']),
    ('mmpretrain::resnet/resnet50_8xb32_in1k.py', [
        'conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4'])])
def test_backbone_alone(config, parts):
    cfg = load_config(config)
    alone, whole = (compute_config_complexity(cfg, [96], part)
                    for part in ('backbone', 'detector'))
    assert alone.total == whole.parts['backbone']
    assert list(alone.parts) == parts


def test_roi_heads_get_a_stated_number_of_proposals():
    cfg = load_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', {
        'model.test_cfg.rpn.max_per_img': 120,
        'model.roi_head.bbox_head.fc_out_channels': 8,
        'model.roi_head.mask_head.num_convs': 1,
        'model.roi_head.mask_head.conv_out_channels': 4})
    found = compute_config_complexity(cfg, [64, 64])
    # Two fully connected layers, 81 scores, 4 coordinates of 80 classes.
    box = 256 * 49 * 8 + 8 * 8 + 8 * 81 + 8 * 4 * 80
    # A 3x3 convolution at 14x14, up to 28x28 with a 2x2, 80 masks.
    mask = 14**2 * (9 * 256 * 4 + 4 * 4 * 4) + 28**2 * 4 * 80
    assert found.parts['roi_head'].macs == 120 * box + 100 * mask
    assert '120 proposals' in found.notes[0]
    assert found.uncounted == ['torchvision.roi_align (2x)']
    # 3 anchors for each of the five levels' pixels.
    assert found.parts['rpn_head'].macs == sum(
        side**2 for side in (16, 8, 4, 2, 1)) * 256 * (9 * 256 + 3 * (1 + 4))


@pytest.mark.parametrize('config, params, giga, tolerance', [
    # mmdet's configs/rtmdet/README.md
    ('mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', 8.89, 14.8, 0.005),
    # mmpretrain's metafiles, which count norms and pooling too
    ('mmpretrain::resnet/resnet50_8xb32_in1k.py', 25.56, 4.12, 0.02),
    ('mmpretrain::densenet/densenet201_4xb256_in1k.py', 20.01, 4.37, 0.02),
])
def test_published_costs(config, params, giga, tolerance):
    found = compute_config_complexity(load_config(config))
    assert round(found.total.params / 1e6, 2) == params
    assert found.total.macs / 1e9 == pytest.approx(giga, rel=tolerance)


@pytest.mark.parametrize('config, shape, expected', [
    (RETINANET, None, (800, 1344)),  # 800x1333, padded to multiples of 32
    (RETINANET, [100], (128, 128)),
    (RETINANET, [320, 33], (320, 64)),
    ('mmpretrain::resnet/resnet50_8xb32_in1k.py', None, (224, 224)),
    ('mmdet::ssd/ssd300_coco.py', None, (300, 300)),
    ('mmpretrain::resnet/resnet18_8xb16_cifar10.py', [33], (33, 33))])
def test_input_is_the_config_s_or_the_user_s(config, shape, expected):
    assert get_input_shape(load_config(config), shape) == (1, 3, *expected)


@pytest.mark.parametrize('shape', [[0], [32, -1], [], [1, 2, 3]])
def test_a_shape_that_is_none(shape):
    with pytest.raises(UserError, match='^--shape .*height and width'):
        get_input_shape(load_config(RETINANET), shape)


def test_no_size_in_the_pipeline():
    cfg = load_config('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    with pytest.raises(UserError, match='sets no size; give --shape'):
        compute_config_complexity(cfg)


@pytest.mark.parametrize('model', [
    None, dict(type='SoftTeacher', detector=dict(backbone=dict(type='A')))])
def test_no_backbone(model):
    cfg = Config(dict(model=model))
    for part in ('detector', 'backbone'):
        with pytest.raises(UserError, match='has no model.backbone'):
            compute_config_complexity(cfg, [32], part)


def test_a_shape_that_the_network_cannot_take():
    cfg = load_config('mmpretrain::swin_transformer/'
                          'swin-tiny_16xb64_in1k.py')
    with pytest.raises(UserError, match=r'1x3x30x30 \(.*window size'):
        compute_config_complexity(cfg, [30])


@pytest.mark.parametrize('path', [
    'nowhere::a/b.py', 'mmdet::b.py', 'mmdet::retinanet/nowhere.py'])
def test_no_such_config(path):
    with pytest.raises(UserError, match=f'^config {path}: '):
        load_config(path)
