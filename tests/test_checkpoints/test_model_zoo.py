"""The metafiles: whole, read by MMEngine, and the page that shows them."""
from pathlib import Path

import pytest
from mmengine.config.utils import _get_cfg_metainfo

from vovnet.checkpoints import (
    KNOWN_WEIGHTS,
    model_zoo,
    read_metafiles,
    update_page,
)
from vovnet.checkpoints.metafiles import read_index
from vovnet.utils.errors import UserError

ROOT = Path(__file__).parents[2]
INDEX = str(ROOT / 'model-index.yml')
PAGE = (ROOT / 'docs/model_zoo.md').read_text()
MODELS = [model for _, models in read_index(INDEX) for model in models]
NON_COMMERCIAL = ('youngwanLEE/vovnet-detectron2', 'youngwanLEE/centermask2')


def test_page_is_up_to_date():
    assert update_page(PAGE, INDEX) == PAGE


def test_every_recipe_is_in_the_zoo_once():
    names = [model['Name'] for model in MODELS]
    assert len(set(names)) == len(names)
    folders = {Path(model['Config']).parent for model in MODELS}
    # What this project made up for its demo and tests has no metafile.
    recipes = {f.relative_to(ROOT) for folder in folders
               for f in (ROOT / folder).glob('*.py')
               if not f.stem.endswith(('_shapes', '_shape-pairs', '_bccd'))}
    assert recipes == {Path(model['Config']) for model in MODELS}


def test_mmengine_finds_the_models(tmp_path):
    """As it finds those of an installed library."""
    (tmp_path / '.mim').symlink_to(ROOT)
    for _, (model, *_) in read_index(INDEX):
        assert model == _get_cfg_metainfo(
            str(tmp_path), model['Config'].removeprefix('configs/'))


@pytest.mark.parametrize('model', MODELS, ids=lambda m: m['Name'])
def test_origin_and_license_are_stated(model):
    """Config, weights, license, normalization, result, source: each or a word.
    """
    metadata = model['Metadata']
    source = metadata['Source']
    assert source.startswith('https://')
    assert (ROOT / model['Config']).is_file()
    assert metadata['License'] and metadata['Normalization']
    if 'Results' in model:
        assert metadata['Reported By'].endswith('; not reproduced here')
        for result in model['Results']:
            assert result['Task'] and result['Dataset'] and result['Metrics']
    else:
        assert 'Reported By' not in metadata
        assert metadata['Published Result'] == 'none'
    if 'Weights' in model:
        # What mim can download.
        assert model['Weights'].startswith('https://')
        assert metadata['Weights Format']
        license = read_metafiles(INDEX)[model['Name']].license
        if any(repository in source for repository in NON_COMMERCIAL):
            assert license == 'CC BY-NC 4.0'
        if 'AdelaiDet' in source:
            assert 'non-commercial' in license
    else:
        assert metadata['Weights Status'].startswith('no weights published')
        assert metadata['License'] == 'Apache-2.0, of the config'
        assert metadata['Starting Weights']


def test_weights_of_which_only_the_backbone_serves():
    for model in MODELS:
        metadata = model['Metadata']
        theirs = metadata.get('Weights Format') == 'maskrcnn-benchmark'
        assert theirs == ('mb-2x' in model['Name'])
        assert theirs == ('backbone only' in metadata.get('Weights Usage', ''))


def test_timm_weights_have_an_address_and_a_name():
    """mim downloads the one, a config of this project names the other."""
    found = 0
    for model in MODELS:
        if name := model['Metadata'].get('Checkpoint'):
            hub = name.removeprefix('timm://')
            assert model['Weights'] == (
                f'https://huggingface.co/timm/{hub}/resolve/main/'
                'model.safetensors')
            entry = read_metafiles(INDEX)[model['Name']]
            assert entry.url == name == KNOWN_WEIGHTS[f'timm/{hub}'].url
            found += 1
    assert found == 6


def test_row():
    cells = model_zoo.format_row({
        'Name': 'a', 'Config': 'configs/x/a.py',
        'Metadata': {
            'License': 'CC BY-NC 4.0', 'Weights Format': 'detectron2',
            'Normalization': 'BGR', 'Source': 'https://arxiv.org/abs/1',
            'Table': 5, 'FPS': 71, 'Hardware': 'TITAN X, CUDA 9.2',
            'Note': 'mind it'},
        'Results': [
            {'Task': 't', 'Dataset': 'COCO', 'Metrics': {
                'box AP': 42.7, 'box APs': 1.0, 'box AP50': 2.0}},
            {'Task': 'u', 'Dataset': 'COCO', 'Metrics': {'mask AP': 39.3}}],
        'Weights': 'https://host/s/1/w.pth?dl=1'})
    assert cells == (
        '[a](../configs/x/a.py) (mind it)',
        'COCO: 42.7 box AP, 39.3 mask AP', '71 FPS, on TITAN X',
        '[w.pth](https://host/s/1/w.pth?dl=1), detectron2, CC BY-NC 4.0',
        'BGR', '[paper, Table 5](https://arxiv.org/abs/1)')
    cells = model_zoo.format_row({
        'Name': 'c', 'Config': 'c.py', 'Weights': 'https://host/c/m.bin',
        'Metadata': {
            'License': 'MIT', 'Weights Format': 'timm',
            'Weights Usage': 'backbone only', 'Checkpoint': 'timm://c'}})
    assert cells[3] == (
        '[timm://c](https://host/c/m.bin), timm, backbone only, MIT')
    cells = model_zoo.format_row({
        'Name': 'd', 'Config': 'd.py', 'Metadata': {
            'Weights Status': 'no weights published',
            'Published Result': 'none', 'Caffe Weights': 'https://host/d',
            'Starting Weights': [
                {'Name': 'random'},
                {'Name': 'x/y', 'License': 'MIT', 'Source': 'https://z',
                 'Options': 'a=1'}]}})
    assert cells[1] == 'none'
    assert cells[3] == (
        'no weights published ([Caffe](https://host/d)); starts from random '
        'weights; can start from [x/y](https://z), MIT, with `a=1`')
    cells = model_zoo.format_row({'Name': 'b', 'Config': 'b.py'})
    assert cells[1:] == ('–', ) * 5


def test_bad_index(tmp_path):
    index = tmp_path / 'model-index.yml'
    with pytest.raises(UserError, match='the page needs a line <!-- begin'):
        update_page('no marks', INDEX)
    index.write_text('Import: [m.yml]')
    with pytest.raises(UserError, match='m.yml: cannot be read'):
        update_page(PAGE, str(index))
    for content, message in (
            ('Models: [{Config: a.py}]', 'm.yml: a model has no Name'),
            ('Models: [{Name: a, In Collection: B}]',
             "m.yml: a: there is no collection 'B'")):
        (tmp_path / 'm.yml').write_text(content)
        with pytest.raises(UserError, match=message):
            update_page(PAGE, str(index))
