"""The timm configs' images beside those of timm's own transform."""
import re
from pathlib import Path

import vovnet  # noqa: F401  isort: skip  # first, for mmcv's operators
import matplotlib
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from PIL import Image
from timm.data import create_transform, resolve_data_config

CONFIGS = Path(__file__).parents[2] / 'configs/imagenet'
# Each config, timm's name, and whether its larger size for tests is meant.
NAMES = {
    'vovnetv2-19-dw_timm_in1k': ('ese_vovnet19b_dw.ra_in1k', False),
    'vovnetv2-19-dw_timm_in1k-288px': ('ese_vovnet19b_dw.ra_in1k', True),
    'vovnetv2-39_timm_in1k': ('ese_vovnet39b.ra_in1k', False),
    'vovnetv2-39_timm_in1k-288px': ('ese_vovnet39b.ra_in1k', True),
    'vovnetv2-57_timm_in1k': ('ese_vovnet57b.ra4_e3600_r256_in1k', False),
    'vovnetv2-57_timm_in1k-320px': ('ese_vovnet57b.ra4_e3600_r256_in1k',
                                    True),
}


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
    """matplotlib's photograph, 512x600: whole, in other shapes, in grey."""
    folder = tmp_path_factory.mktemp('photographs')
    source = Path(matplotlib.get_data_path(),
                  'sample_data/grace_hopper.jpg')
    image = Image.open(source)
    image.transpose(Image.Transpose.ROTATE_90).save(folder / 'wide.jpg')
    image.crop((0, 100, 511, 343)).save(folder / 'odd.jpg', quality=60)
    # Both sides shorter than any crop, to be enlarged.
    image.resize((203, 181)).save(folder / 'small.jpg')
    image.convert('L').save(folder / 'grey.jpg')
    image.resize((307, 360)).save(folder / 'lossless.png')
    # Taken with the camera upside down: timm does not turn it.
    tagged = image.getexif()
    tagged[0x0112] = 3
    image.save(folder / 'tagged.jpg', exif=tagged)
    return [source, *sorted(folder.iterdir())]


def test_every_config_is_here():
    assert {f.stem for f in CONFIGS.glob('*_timm_*')} == set(NAMES)


def test_the_page_shows_these_sizes():
    page = (CONFIGS.parents[1] / 'docs/imagenet.md').read_text()
    rows = re.findall(r'\| `(\S+_timm_\S+)` \|.*\| (\d+) \| (\d+) \|', page)
    assert [row[0] for row in rows] == list(NAMES)
    for name, side, crop in rows:
        _, resize, cut, _ = Config.fromfile(
            CONFIGS / f'{name}.py').test_pipeline
        assert (resize.scale, cut.crop_size) == (int(side), int(crop))


@pytest.mark.parametrize('name', NAMES)
def test_equal_to_timm(name, photographs):
    theirs, large = NAMES[name]
    settings = resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(theirs).to_dict(),
        use_test_size=large)
    transform = create_transform(**settings)
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = Compose(cfg.test_dataloader.dataset.pipeline)
        prepare = MODELS.build(dict(
            type='ClsDataPreprocessor', **cfg.data_preprocessor))
        batch = default_collate([
            pipeline(dict(img_path=str(file), gt_label=0))
            for file in photographs])
    ours = prepare(batch)['inputs']
    expected = torch.stack([transform(Image.open(file).convert('RGB'))
                            for file in photographs])
    assert ours.shape == expected.shape
    # The same pixels; mean and std are of 0..255 here and of 0..1 there.
    assert (ours - expected).abs().max() < 2e-6
    assert len({image.numpy().tobytes() for image in ours}) == 7
