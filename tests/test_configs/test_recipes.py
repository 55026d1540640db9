"""What the recipes promise beyond the properties of every config."""
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

import vovnet  # noqa: F401
from vovnet.checkpoints import match_weights

CONFIGS = Path(__file__).parents[2] / 'configs'
SIZES = (640, 672, 704, 736, 768, 800)


def read(name):
    return Config.fromfile(str(CONFIGS / name))


@pytest.fixture(scope='module')
def photograph(tmp_path_factory):
    """Smooth noise of 900 x 1000 pixels."""
    path = tmp_path_factory.mktemp('images') / 'a.png'
    small = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8)
    Image.fromarray(small).resize((1000, 900)).save(path)
    return path


def prepare(pipeline, path):
    box = dict(bbox=[10., 10., 60., 90.], bbox_label=0, ignore_flag=0,
               mask=[[10., 10., 60., 10., 60., 90.]])
    with DefaultScope.overwrite_default_scope('mmdet'):
        return Compose(pipeline)(dict(
            img_path=str(path), img_id=1, instances=[box], height=900,
            width=1000))


@pytest.mark.parametrize('name', [
    'faster_rcnn/faster-rcnn_vovnetv2-39_fpn_d2-3x_coco.py',
    'mask_rcnn/mask-rcnn_vovnetv2-39_fpn_d2-3x_coco.py',
    'fcos/fcos_vovnetv2-39_fpn_gn-head_d2-3x_coco.py'])
def test_images_are_resized_as_by_detectron2(name, photograph):
    """Pillow's bilinear filter; six sizes of the shorter side in training."""
    cfg = read(name)
    assert cfg.test_dataloader.dataset.pipeline == cfg.test_pipeline
    assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline
    found = prepare(cfg.test_pipeline, photograph)['inputs']
    # 900 x 1000 to 800: 1000 * 800 / 900 = 888.9, rounded.
    theirs = Image.open(photograph).resize((889, 800), Image.BILINEAR)
    assert np.array_equal(found.numpy().transpose(1, 2, 0)[..., ::-1],
                          np.asarray(theirs))
    heights = {prepare(cfg.train_pipeline, photograph)['inputs'].shape[1]
               for _ in range(8)}
    assert heights <= set(SIZES) and len(heights) > 1


def test_detectron2s_3x():
    """270k iterations, a tenth after 210k and 250k, warm-up of 1000."""
    for folder, rate in (('faster_rcnn', 0.02), ('mask_rcnn', 0.02),
                         ('fcos', 0.01)):
        files = sorted((CONFIGS / folder).glob('*_d2-3x_coco.py'))
        assert len(files) == dict(faster_rcnn=8, mask_rcnn=8, fcos=3)[folder]
        cfg = read(files[0])
        warm_up, steps = cfg.param_scheduler
        assert (warm_up.start_factor, warm_up.end) == (0.001, 1000)
        assert steps.milestones == [210000, 250000] and not steps.by_epoch
        assert cfg.optim_wrapper.optimizer == dict(
            type='SGD', lr=rate, momentum=0.9, weight_decay=1e-4)
        assert 'clip_grad' not in cfg.optim_wrapper


@pytest.mark.parametrize('name, factor, milestones', [
    # WARMUP_FACTOR of configs/vovnet/*.yaml: 0.001 in one of the eight.
    ('faster-rcnn_vovnet-39_fpn_mb-2x', 0.001, [120000, 160000]),
    ('faster-rcnn_vovnet-57_fpn_mb-2x', 0.01, [120000, 160000]),
    ('faster-rcnn_vovnet-75_fpn_mb-2x', 0.01, [120000, 160000]),
    ('faster-rcnn_vovnet-93_fpn_mb-2x', 0.01, [120000, 160000]),
    ('mask-rcnn_vovnet-39_fpn_mb-2x', 0.01, [120000, 160000]),
    ('mask-rcnn_vovnet-93_fpn_mb-2x', 0.01, [120000, 160000]),
    ('mask-rcnn_vovnet-57_fpn_gn-scratch-3x', 1 / 3, [210000, 250000]),
    ('mask-rcnn_r101_fpn_gn-scratch-3x', 1 / 3, [210000, 250000])])
def test_schedules_of_maskrcnn_benchmark(name, factor, milestones):
    folder = name.partition('_')[0].replace('-', '_')
    cfg = read(f'{folder}/{name}_coco.py')
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end) == (factor, 500)
    assert steps.milestones == milestones
    assert cfg.model.data_preprocessor.mean == [
        102.9801, 115.9465, 122.7717]
    scratch = 'scratch' in name
    assert scratch == (cfg.model.backbone.norm_cfg.type == 'GN')
    assert scratch == (cfg.model.backbone.get('init_cfg') is None)


def test_fine_tuning_takes_all_of_a_coco_detector_but_the_classes():
    def build(name):
        with DefaultScope.overwrite_default_scope('mmdet'):
            return MODELS.build(read(name).model)

    coco = build('faster_rcnn/faster-rcnn_vovnetv2-39_fpn_d2-3x_coco.py')
    mine = build('custom/faster-rcnn_vovnetv2-39_fpn_my-coco.py')
    found = match_weights(mine, coco.state_dict())
    assert not found.missing and not found.unexpected
    assert {name.rsplit('.', 1)[0] for name in found.reshaped} == {
        'roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg'}
    mine.train()
    learning = {name.split('.')[1] for name, weight
                in mine.backbone.named_parameters('backbone')
                if weight.requires_grad}
    assert learning == {'stage3', 'stage4', 'stage5'}
    assert not any(module.training for module in mine.backbone.modules()
                   if 'BatchNorm' in type(module).__name__)
