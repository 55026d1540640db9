"""Weights that others have published: which, whose, and for which images.

The table is typed from the authors' pages (stigma0617/VoVNet.pytorch@039d9dc,
vov-net/VoVNet-Detectron@0176f70, youngwanLEE/CenterMask@72147e8 and
vovnet-detectron2@b81c813, gau-nernst/vision-toolbox, exiawsh/StreamPETR,
TRI-ML/dd3d, mmdet3d's projects/PETR) and from pytorchcv 0.0.74's
model_metainfos.csv; timm is asked itself.
"""
import io
from typing import NamedTuple

import foreign
import pytest
import timm
import torch
from foreign import NETS, random_weights
from mmengine.runner.checkpoint import CheckpointLoader

from vovnet.checkpoints import (
    KNOWN_WEIGHTS,
    Normalization,
    download,
    download_weights,
    export_weights,
    parse_checkpoint,
)
from vovnet.utils.errors import UserError

RGB = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False)
BGR = Normalization((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), True)
# detectron2 subtracts the mean only, as maskrcnn-benchmark does with another.
BGR_STD_1 = Normalization((103.53, 116.28, 123.675), (1., 1., 1.), True)
CAFFE2 = Normalization((102.9801, 115.9465, 122.7717), (1., 1., 1.), True)
HALF = Normalization((127.5, ) * 3, (127.5, ) * 3, False)
UNIT = Normalization((0., ) * 3, (255., ) * 3, False)


class Row(NamedTuple):
    """What is known of a file; ``library`` is whose names its tensors have."""
    address: str
    license: str
    images: Normalization
    library: foreign.Library
    checksum: str = ''


DROPBOX = 'https://{}.dropbox.com/s/{}?dl=1'
RELEASES = 'https://github.com/{}/releases/download/{}/{}'


def timm_row(name, images):
    return {f'timm/{name}': Row(
        f'timm://{name}', 'Apache-2.0', images, foreign.TIMM)}


def pytorchcv(name, release, error, sha1):
    file = f'{name}-{error}-{sha1[:8]}.pth.zip'
    return {f'pytorchcv/{name}': Row(
        RELEASES.format('osmr/imgclsmob', release, file), 'MIT', RGB,
        foreign.PYTORCHCV, f'sha1:{sha1}')}


def vision_toolbox(norm, owner, **digits):
    """The older training code had mean and std 0.5, which eSE came from."""
    return {f'{owner}/{name}': Row(
        RELEASES.format('gau-nernst/vision-toolbox', 'v0.0.1',
                        f'{name}-{digit}.pth'), 'not stated',
        HALF if 'ese' in name else UNIT,
        (foreign.VISION_TOOLBOX if 'ese' in name else
         foreign.VISION_TOOLBOX_V1)._replace(norm=norm))
        for name, digit in digits.items()}


def authors(host, license, images, *files):
    return {'authors/' + file.split('/')[1].partition('.')[0]: Row(
        DROPBOX.format(host, file), license, images,
        foreign.AUTHORS if 'ese' in file else foreign.AUTHORS_V1)
        for file in files}


ROWS = {
    **timm_row('ese_vovnet19b_dw.ra_in1k', RGB),
    **timm_row('ese_vovnet39b.ra_in1k', RGB),
    **timm_row('ese_vovnet57b.ra4_e3600_r256_in1k', HALF),
    **pytorchcv('vovnet27s', 'v0.0.551', '0997',
                'b7a5bf677bd3431bbed44b439fde7a01d699ace1'),
    **pytorchcv('vovnet39', 'v0.0.493', '0564',
                '63bfa613870b37bd4fb5b71412e7875392aa4f66'),
    **pytorchcv('vovnet57', 'v0.0.505', '0518',
                'c080e47169a176043f298b1e909ddd8776d5aa76'),
    **vision_toolbox(
        'norm', 'vision-toolbox', vovnet27_slim='dd43306a',
        vovnet39='4c79d629', vovnet57='ecb9cc34',
        vovnet19_slim_ese='f8075640', vovnet19_ese='a077657e',
        vovnet39_ese='9ce81b0d', vovnet57_ese='ae1a7f89',
        vovnet99_ese='713f3062'),
    **vision_toolbox(
        'bn', 'vision-toolbox-2022', vovnet27_slim='79617b9c',
        vovnet39='ced4435d', vovnet57='9929476e',
        vovnet19_slim_ese='446e2ae9', vovnet19_ese='4410fc5f',
        vovnet39_ese='b73bdbe9', vovnet57_ese='630a88d1',
        vovnet99_ese='56fd52f5'),
    # VoVNet.pytorch has no license; it reads images as torchvision does.
    **authors('dl', 'not stated', RGB,
              '1lnzsgnixd8gjra/vovnet39_torchvision.pth',
              '6bfu9gstbwfw31m/vovnet57_torchvision.pth'),
    # VoVNet-Detectron.
    **authors('dl', 'MIT', CAFFE2,
              's7f4vyfybyc9qpr/vovnet39_statedict_norm.pth',
              'b826phjle6kbamu/vovnet57_statedict_norm.pth',
              've1h1ol2ge7yfta/vovnet75_statedict_norm.pth.tar',
              'qtly316zv1isn0t/vovnet93_statedict_norm.pth.tar'),
    # CenterMask.
    **authors('dl', 'BSD-2-Clause', CAFFE2,
              'f5db5r6jjia2wj8/vovnet19-ese-statedict.pth',
              '8rhfcw53hc49k5x/vovnet39_ese_state_dict.pth',
              'vci2ih0nq3t3lu4/vovnet57_ese_state_dict.pth',
              '3wflmwz0wx50ywt/vovnet99_ese_state_dict.pth'),
    # vovnet-detectron2 and centermask2.
    **authors('www', 'CC BY-NC 4.0', BGR_STD_1,
              'f3s7ospitqoals1/vovnet19_ese_slim_dw_detectron2.pth',
              '8h5ybmi4ftbcom0/vovnet19_ese_slim_detectron2.pth',
              '9awvl0mxye3nqz1/vovnet19_ese_dw_detectron2.pth',
              'rptgw6stppbiw1u/vovnet19_ese_detectron2.pth',
              'q98pypf96rhtd8y/vovnet39_ese_detectron2.pth',
              '8xl0cb3jj51f45a/vovnet57_ese_detectron2.pth',
              '1mlv31coewx8trd/vovnet99_ese_detectron2.pth'),
    'dd3d/depth_pretrained_v99-3jlw0p36-20210423_010520-model_final-remapped':
    Row('https://tri-ml-public.s3.amazonaws.com/github/dd3d/pretrained/'
        'depth_pretrained_v99-3jlw0p36-20210423_010520-model_final-'
        'remapped.pth', 'not stated', BGR, foreign.AUTHORS),
    **{f'petr/{name}': Row(
        RELEASES.format('exiawsh/storage', 'v1.0', f'{name}.pth'),
        'not stated', BGR, foreign.AUTHORS)
       for name in ('fcos3d_vovnet_imgbackbone-remapped', 'dd3d_det_final')},
    # OpenMMLab puts the first digits of SHA-256 into its names.
    'mmdet3d/petr_vovnet_gridmask_p4_800x320':
    Row('https://download.openmmlab.com/mmdetection3d/v1.1.0_models/petr/'
        'petr_vovnet_gridmask_p4_800x320-e2191752.pth', 'Apache-2.0', BGR,
        foreign.AUTHORS, 'e2191752'),
}


def shapes(net, library, prefix=''):
    """A state dict without storage: names and shapes tell enough."""
    with torch.device('meta'):
        return {prefix + key: value for key, value in random_weights(
            NETS[net], library).items()}


def images_of(state, source):
    return parse_checkpoint(state, source).variant.normalization


# -- the table --------------------------------------------------------------


@pytest.mark.parametrize('name', KNOWN_WEIGHTS)
def test_every_published_file(name):
    found, row = KNOWN_WEIGHTS[name], ROWS[name]
    assert (found.url, found.license, found.checksum) == (
        row.address, row.license, row.checksum)
    # By its address, and by its name wherever it lies.
    state = shapes('tiny', row.library)
    file = row.address.partition('?')[0].rpartition('/')[2]
    for source in (row.address, f'some/folder/{file}'):
        assert images_of(state, source) == row.images


def test_nothing_is_lost():
    known = {name for name in ROWS if '-2022/' not in name}
    assert known - KNOWN_WEIGHTS.keys() == set()


@pytest.mark.parametrize('name', [n for n in ROWS if n.startswith('timm/')])
def test_timm_says_the_same(name):
    theirs = timm.models.get_pretrained_cfg(name.removeprefix('timm/'))
    assert theirs.hf_hub_id == name
    assert theirs.license == ROWS[name].license.lower()
    for ours, values in ((ROWS[name].images.mean, theirs.mean),
                         (ROWS[name].images.std, theirs.std)):
        assert ours == pytest.approx([255 * value for value in values])


# -- what the names of the tensors tell -------------------------------------


@pytest.mark.parametrize('net, library, prefix, images', [
    # timm: 57b alone was trained with mean and std 0.5.
    ('57', foreign.TIMM, '', HALF), ('57', foreign.TIMM_A, '', RGB),
    ('19', foreign.TIMM, '', RGB), ('39', foreign.TIMM, '', RGB),
    ('99', foreign.TIMM, '', RGB), ('39', foreign.TIMM_A, '', RGB),
    ('19-dw', foreign.TIMM, 'module.', RGB),
    ('57', foreign.PYTORCHCV, '', RGB), ('27-slim', foreign.PYTORCHCV, '',
                                         RGB),
    ('57', foreign.VISION_TOOLBOX, '', HALF),
    ('19', foreign.VISION_TOOLBOX._replace(norm='bn'), '', HALF),
    ('27-slim', foreign.VISION_TOOLBOX_V1, '', UNIT),
    # The authors' names are everybody's; the prefix tells the program.
    ('99', foreign.AUTHORS, 'img_backbone.', BGR),
    ('99', foreign.AUTHORS, 'module.img_backbone.', BGR),
    ('39', foreign.AUTHORS, 'backbone.bottom_up.', BGR_STD_1),
    ('39', foreign.AUTHORS, 'bottom_up.', BGR_STD_1),
    ('39', foreign.AUTHORS_V1, 'module.backbone.body.', CAFFE2),
    ('39', foreign.AUTHORS_V1, 'backbone.body.', CAFFE2),
    *((net, library, prefix, None) for prefix in (
        '', 'module.', 'backbone.', 'student.encoder.')
      for net, library in (('39', foreign.AUTHORS_V1),
                           ('57', foreign.AUTHORS)))])
def test_images_of_a_file_that_nobody_knows(net, library, prefix, images):
    assert images_of(shapes(net, library, prefix), 'runs/epoch_9.pth') == \
        images


OFFICIAL = dict(stem='strided', residual=True, pool='ceil', eps=1e-5)
PADDED = dict(stem='pooled', residual='same-width', pool='padded', eps=1e-5)


@pytest.mark.parametrize('library, prefix, options', [
    (foreign.AUTHORS, '', dict(OFFICIAL, ese='all')),
    (foreign.AUTHORS, 'backbone.bottom_up.', dict(OFFICIAL, ese='all')),
    (foreign.AUTHORS_V1, 'img_backbone.', dict(OFFICIAL, ese='none')),
    # The frozen batch norm of maskrcnn-benchmark.
    (foreign.AUTHORS_V1, 'backbone.body.', dict(
        OFFICIAL, ese='none', eps=0)),
    (foreign.TIMM, '', dict(OFFICIAL, ese='last')),
    (foreign.TIMM_A, '', dict(OFFICIAL, ese='none', residual=False)),
    (foreign.PYTORCHCV, '', dict(OFFICIAL, ese='none')),
    (foreign.VISION_TOOLBOX, '', dict(PADDED, ese='all')),
    (foreign.VISION_TOOLBOX_V1._replace(norm='bn'), '', dict(
        PADDED, ese='none'))])
def test_options_of_a_library(library, prefix, options):
    found = parse_checkpoint(shapes('39', library, prefix), 'a.pth')
    assert found.variant._replace(normalization=None)._asdict() == dict(
        options, bottleneck=False, normalization=None)
    version = 'V1' if options['ese'] == 'none' else 'V2'
    assert (found.arch, found.prefix) == (f'{version}-39', prefix)


def test_one_block_a_stage():
    """Its last block is all there is: nothing needs to be said of eSE."""
    for library in (foreign.AUTHORS, foreign.TIMM):
        found = parse_checkpoint(shapes('19-slim-dw', library), 'a.pth')
        assert (found.arch, found.variant.ese) == ('V2-19-slim-dw', 'all')


@pytest.mark.parametrize('part, value', [('weight', 0.), ('bias', 3.)])
def test_gates_that_do_something_are_not_dropped(part, value):
    """timm has room for those of last blocks; open are hardsigmoid(0 + 3)."""
    torch.manual_seed(0)
    state = random_weights(NETS['tiny'], foreign.AUTHORS)
    for key in state:
        if f'.ese.fc.{part}' in key:
            state[key].fill_(value)
    with pytest.raises(UserError, match='timm has eSE in the last block'):
        export_weights(parse_checkpoint(state, 'a.pth'), 'timm')


def test_channels_that_never_varied():
    """Without eps the scale would be endless; they are their bias."""
    torch.manual_seed(0)
    state = random_weights(NETS['tiny'], foreign.AUTHORS)
    for key in state:
        if key.endswith('running_var'):
            state[key][0] = 0
    found = parse_checkpoint({f'backbone.body.{key}': value
                       for key, value in state.items()}, 'a.pth')
    plain = export_weights(found, 'authors')  # with eps
    assert all(value.isfinite().all() for value in plain.values())
    scale = 'stem.stem_1/norm.weight'
    assert plain[scale][0] == state[scale][0]
    assert not torch.equal(plain[scale], state[scale])


def test_numbers_that_contradict_each_other():
    state = {key.replace('OSA3_', 'OSA2_'): value for key, value in shapes(
        'tiny', foreign.AUTHORS).items()}
    with pytest.raises(UserError, match="tensors like 'stage3.OSA2_1"):
        parse_checkpoint(state, 'a.pth')


@pytest.mark.parametrize('library', [
    foreign.AUTHORS, foreign.TIMM, foreign.PYTORCHCV, foreign.VISION_TOOLBOX])
def test_a_part_of_a_name_is_no_prefix(library):
    """``my_stage2.`` is some other module."""
    state = shapes('tiny', library, 'my_')
    with pytest.raises(UserError, match='none of its tensors fits a VoVNet'):
        parse_checkpoint(state, 'a.pth')
    state |= shapes('tiny', library, 'my.')
    found = parse_checkpoint(state, 'a.pth')
    assert found.prefix == 'my.'
    assert sorted(found.left_out) == sorted(
        key for key in state if key.startswith('my_'))


# -- checksums --------------------------------------------------------------


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Give the same file for every address; returns the cache."""
    torch.save(dict(w=torch.arange(9.)), tmp_path / 'w.pth')
    content = (tmp_path / 'w.pth').read_bytes()

    def urlopen(request, timeout):
        response = io.BytesIO(content)
        response.status, response.headers = 200, {}
        return response

    monkeypatch.setattr(download, 'urlopen', urlopen)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    return tmp_path / 'hub/checkpoints'


def kept(folder):
    return [path for path in folder.iterdir() if path.suffix != '.lock']


CHECKED = [name for name, row in ROWS.items() if row.checksum]
SWAPPED = 'is not the file that was published.*removed from the cache'


@pytest.mark.parametrize('name', CHECKED)
def test_swapped_files_are_refused(name, serve):
    """In a config by address, and by name."""
    with pytest.raises(UserError, match=SWAPPED) as error:
        CheckpointLoader.load_checkpoint(ROWS[name].address)
    assert ROWS[name].address in str(error.value)
    with pytest.raises(UserError, match=SWAPPED):
        download_weights(name, 'no-index.yml')
    assert kept(serve) == []


def test_files_without_a_checksum_are_taken(serve):
    """So it is the checksum that the others fail for."""
    name = 'authors/vovnet39_torchvision'
    loaded = CheckpointLoader.load_checkpoint(ROWS[name].address)
    assert torch.equal(loaded['w'], torch.arange(9.))
    _, path = download_weights(name, 'no-index.yml')
    assert [str(path) for path in kept(serve)] == [path]
