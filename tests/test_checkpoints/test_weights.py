"""What is found in a file, what is refused, what is absorbed."""
import zipfile
from collections import OrderedDict

import foreign
import pytest
import torch
from foreign import NETS, assert_close, evaluate, random_weights
from mmengine.registry import MODELS, DefaultScope, Registry
from mmengine.runner.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    weights_to_cpu,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from vovnet.checkpoints import (
    KNOWN_WEIGHTS,
    Normalization,
    Variant,
    convert,
    export_weights,
    get_state_dict,
    load_file,
    load_strict,
    match_weights,
    parse_checkpoint,
    read_weights,
)
from vovnet.checkpoints.download import get_cache_name
from vovnet.checkpoints.variant import fold_normalization
from vovnet.models import VoVNet, VoVNetCP
from vovnet.utils.errors import UserError

TINY = dict(num_blocks=NETS['tiny'].blocks, num_layers=NETS['tiny'].layers,
            stage_channels=NETS['tiny'].layer,
            aggregated_channels=NETS['tiny'].out,
            stem_channels=NETS['tiny'].stem)
V2 = dict(arch=TINY, stem='strided', residual=True, ese='all')
NET = NETS['tiny']


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def authors():
    return random_weights(NET, foreign.AUTHORS, classes=3)


def build(path, options, **init):
    model = VoVNet(**options, init_cfg=dict(
        type='Pretrained', checkpoint=str(path), **init))
    model.init_weights()
    return model.eval()


def assert_computes(model, state, library, **kwargs):
    x = torch.randn(1, 3, 75, 64)
    with torch.inference_mode():
        assert_close(model(x), evaluate(state, NET, library, x, **kwargs))


def with_prefix(state, prefix):
    return {prefix + k: v for k, v in state.items()}


# -- where the weights are --------------------------------------------------


@pytest.mark.parametrize('prefix', [
    '', 'module.', 'backbone.', 'backbone.bottom_up.', 'img_backbone.',
    'module.backbone.body.', 'backbone.body.', 'student.encoder.'])
def test_prefixes_are_found(prefix, authors, tmp_path):
    others = {f'{prefix}head.0.weight': torch.ones(2),
              'roi_heads.bias': torch.ones(2)}
    torch.save({**with_prefix(authors, prefix), **others}, tmp_path / 'a.pth')
    for given in (None, prefix, prefix[:-1], prefix.removeprefix('module.')):
        weights = read_weights(str(tmp_path / 'a.pth'), given)
        assert (weights.scheme, weights.prefix) == ('authors', prefix)
        assert set(weights.left_out) == others.keys()
        assert len(weights.state_dict) == len(authors)


SOLVER = dict(optimizer=dict(state={0: torch.ones(3)}), iteration=5)


@pytest.mark.parametrize('wrap', [
    lambda s: s, lambda s: dict(model=s, **SOLVER),
    lambda s: dict(state_dict=s, meta={}, **SOLVER),
    lambda s: dict(model=dict(state_dict=s)),
    lambda s: dict(state_dict=with_prefix(s, 'old.'), state_dict_ema=s),
    lambda s: dict(model=with_prefix(s, 'old.'), model_ema=s),
    lambda s: dict(model=with_prefix(s, 'old.'), ema=dict(module=s, n=3)),
    lambda s: dict(model_state_dict=s, ema={}, **SOLVER),
    lambda s: dict(epoch=1, of_a_name_that_nobody_uses=s, **SOLVER),
])
def test_containers_are_found(wrap, authors, tmp_path):
    torch.save(wrap(authors), tmp_path / 'a.pth')
    weights = read_weights(str(tmp_path / 'a.pth'))
    assert weights.prefix == '' and not weights.left_out
    assert all(torch.equal(a, b) for a, b in zip(
        weights.state_dict.values(), authors.values()))


@pytest.mark.parametrize('kind', ['safetensors', 'pth.zip', 'no ending'])
def test_file_formats(kind, authors, tmp_path):
    path = tmp_path / f'a.{kind}'
    if kind == 'safetensors':
        save_file(authors, path)
    elif kind == 'pth.zip':
        torch.save(authors, tmp_path / 'a.pth')
        with zipfile.ZipFile(path, 'w') as archive:
            archive.write(tmp_path / 'a.pth', 'a.pth')
    else:
        save_file(authors, path := tmp_path / 'a')
    assert_computes(build(path, V2), authors, foreign.AUTHORS)


def test_damaged_safetensors(authors, tmp_path):
    save_file(authors, tmp_path / 'a.safetensors')
    content = (tmp_path / 'a.safetensors').read_bytes()
    (tmp_path / 'a.safetensors').write_bytes(content[:len(content) // 2])
    with pytest.raises(UserError, match='cut short, damaged'):
        load_file(tmp_path / 'a.safetensors')


# -- what is refused --------------------------------------------------------


@pytest.mark.parametrize('change, told', [
    (lambda s: {'layer1.0.conv1.weight': torch.ones(1)},
     'looks like a ResNet'),
    (lambda s: {'conv1.weight': torch.ones(1)}, 'none of its tensors fits'),
    (lambda s: {**s, 'stage3.OSA3_1.layers.0.OSA3_1_0/conv_offset.weight':
                torch.ones(1)}, "like 'stage3.OSA3_1.layers.0.OSA3_1_0/conv_"),
    (lambda s: {**with_prefix(s, 'teacher.'), **with_prefix(s, 'student.')},
     "prefixes 'student.', 'teacher.'; name one"),
    (lambda s: {k: v for k, v in s.items() if 'stage5' not in k},
     "not whole; get the whole file, or set arch={'num_blocks': (1, 2, 2)"),
    (lambda s: {k: v for k, v in s.items() if 'OSA4_2' not in k},
     "not whole; get the whole file, or set arch={'num_blocks': (1, 2, 1, 1)"),
    (lambda s: {k: v for k, v in s.items() if 'OSA2_1_1' not in k},
     "of which 'stage2.block1.layers.1' is missing; get the whole file"),
    # What the backbone has no place for.
    (lambda s: {**s, 'stem.stem_1/conv.bias': torch.ones(4)},
     'has 1 tensors for which the backbone has no place, such as '
     'stem.0.conv.bias; build it'),
    (lambda s: {**s, 'stem.stem_4/conv.weight': torch.ones(4, 8, 3, 3)},
     'no place, such as stem.3.conv.weight'),
    (lambda s: {**s, 'stage5.OSA5_1.conv_reduction.OSA5_1_reduction_0/conv.'
                'weight': torch.ones(4, 12, 1, 1)},
     'no place, such as stage5.block1.reduction.conv.weight'),
    (lambda s: {k: v for k, v in s.items() if 'OSA4_1.concat' not in k},
     "'stage4.block1.aggregation.conv.weight' is missing"),
    (lambda s: {k: v for k, v in s.items() if 'OSA4_1.ese' not in k},
     'eSE in some blocks only'),
    (lambda s: {k: v for k, v in s.items() if 'OSA4_2_1/norm.bias' not in k},
     'stage4.block2.layers.1.bn.bias is not in the file'),
    (lambda s: {**s, 'stem.stem_1/conv.weight': torch.ones(4, 1, 3, 3)},
     'is (4, 1, 3, 3) in the file and (4, 3, 3, 3) in the backbone'),
])
def test_bad_files(change, told, authors, tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(change(authors), path)
    with pytest.raises(UserError) as error:
        build(path, V2)
    text = str(error.value)
    assert text.startswith(f'VoVNet: {path}: ') and told in text
    assert '\n' not in text


def test_wrong_arch(tmp_path):
    torch.save(random_weights(NETS['19-slim'], foreign.AUTHORS),
               tmp_path / 'a.pth')
    with pytest.raises(UserError, match="set arch='V2-19-slim' in the "
                       "backbone, which has arch='V2-19-slim-dw'"):
        build(tmp_path / 'a.pth', dict(arch='V2-19-slim-dw'))


def test_wrong_prefix(authors, tmp_path):
    torch.save(with_prefix(authors, 'backbone.'), tmp_path / 'a.pth')
    with pytest.raises(UserError, match="'neck.' but behind 'backbone.'"):
        build(tmp_path / 'a.pth', V2, prefix='neck')


LIBRARIES = dict(
    authors=foreign.AUTHORS, authors_v1=foreign.AUTHORS_V1, timm=foreign.TIMM,
    timm_a=foreign.TIMM_A, pytorchcv=foreign.PYTORCHCV,
    vision_toolbox=foreign.VISION_TOOLBOX,
    vision_toolbox_v1=foreign.VISION_TOOLBOX_V1)


@pytest.mark.parametrize('wrong', [
    dict(arch='V1-27-slim'), dict(arch=TINY),
    dict(arch=TINY, stem='strided', ese='none'),
    dict(arch=TINY, stem='strided', residual=True, ese='last',
         bottleneck=True),
    dict(arch=TINY, residual='same-width', ese='all', pool='padded')])
@pytest.mark.parametrize('library', LIBRARIES)
def test_following_the_advice_of_a_refusal(library, wrong, tmp_path):
    """A wrong network is refused; with the options named it is right."""
    library = LIBRARIES[library]
    state = random_weights(NET, library)
    path = tmp_path / 'a.pth'
    torch.save(state, path)
    try:
        model = build(path, wrong)
    except UserError as error:
        text = str(error)
        # TINY has no name; it could be a part of something that has.
        part = (', or not whole; get the whole file, or' if 'slim' in str(
            wrong['arch']) else ';')
        start = f'VoVNet: {path}: is of another network{part} set '
        assert text.startswith(start)
        advice = text.removeprefix(start).partition(' in the backbone')[0]
        model = build(path, wrong | eval(f'dict({advice})'))
    assert_computes(model, state, library)


@pytest.mark.parametrize('option, value', [
    ('stem', 'pooled'), ('residual', False), ('residual', 'same-width'),
    ('ese', 'none'), ('ese', 'last'), ('pool', 'padded'),
    ('bottleneck', True)])
def test_every_option_counts(option, value, authors, tmp_path):
    torch.save(authors, tmp_path / 'a.pth')
    with pytest.raises(UserError) as error:
        build(tmp_path / 'a.pth', V2 | {option: value})
    right = dict(V2, pool='ceil', bottleneck=False)[option]
    assert (f'; set {option}={right!r} in the backbone, which has '
            f'{option}={value!r}') in str(error.value)


@pytest.mark.parametrize('norm_cfg, first', [
    (dict(type='BN', affine=False), 'stage2.block1.aggregation.bn.bias'),
    (dict(type='BN', track_running_stats=False),
     'stage2.block1.aggregation.bn.running_mean'),
    (dict(type='IN'), 'stage2.block1.aggregation.bn.bias')])
def test_weights_that_norms_of_another_kind_would_drop(
        norm_cfg, first, authors, tmp_path):
    torch.save(authors, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=f'no place, such as {first}; build'):
        build(tmp_path / 'a.pth', V2 | dict(norm_cfg=norm_cfg))
    with pytest.raises(UserError, match=f'no place, such as {first}; build'):
        VoVNet(**V2 | dict(norm_cfg=norm_cfg)).load_state_dict(
            authors, strict=False)


@pytest.mark.parametrize('value', [
    dict(mean=116, std=1), dict(mean=[None] * 3, std=[1.] * 3),
    dict(mean='a', std=[1.]), dict(mean=[1.]), [1., 2.]])
@pytest.mark.parametrize('option', ['trained_with', 'data_preprocessor'])
def test_bad_images(option, value, tmp_path):
    torch.save(random_weights(NET, foreign.TIMM), tmp_path / 'a.pth')
    with pytest.raises(UserError, match=rf'^VoVNet: .*{option}=.*: needs '):
        build(tmp_path / 'a.pth', V2, **{option: value})


@pytest.mark.parametrize('url, told', [
    ('mmcls://foo', 'MMEngine knows no weights of this name'),
    ('torchvision://vovnet39', 'MMEngine knows no weights of this name'),
    ('pavi://foo', 'pavi')])
def test_names_that_mmengine_does_not_know(url, told):
    """From a backbone's init_cfg as from load_from."""
    for load in (lambda: build(url, V2), lambda: load_checkpoint(
            VoVNet(**V2), url)):
        with pytest.raises(UserError, match=f'checkpoint {url}: .*{told}'
                           '.*; give a path, a URL or timm://NAME'):
            load()


NORMS = [dict(type='BN', affine=False), dict(type='IN'),
         dict(type='IN', affine=True), dict(type='GN', num_groups=2), None,
         dict(type='BN', track_running_stats=False)]


@pytest.mark.parametrize('norm_cfg', NORMS)
def test_own_weights_of_any_norm(norm_cfg, tmp_path):
    """The same network takes them, one with other options does not."""
    options = V2 | dict(norm_cfg=norm_cfg)
    trained = VoVNet(**options)
    torch.save(trained.state_dict(), tmp_path / 'a.pth')
    same = build(tmp_path / 'a.pth', options)
    for key, value in trained.state_dict().items():
        assert torch.equal(same.state_dict()[key], value)
    other = options | dict(pool='padded')
    with pytest.raises(UserError, match="set pool='ceil'"):
        build(tmp_path / 'a.pth', other)
    with pytest.raises(UserError, match="set pool='ceil'"):
        VoVNet(**other).load_state_dict(trained.state_dict())


@pytest.mark.parametrize('norm_cfg', NORMS)
@pytest.mark.parametrize('plain', [False, True])
def test_no_norm_is_dropped_by_load_from(norm_cfg, plain):
    """Which loads what it can, and tells of the rest in the log alone."""
    state = VoVNet(**V2).state_dict()
    model = VoVNet(**V2 | dict(norm_cfg=norm_cfg))
    with pytest.raises(UserError, match='the backbone has no place'):
        model.load_state_dict(dict(state) if plain else state, strict=False)


def test_eps_without_scales_to_take_it_up(tmp_path):
    norm = dict(type='BN', affine=False)
    trained = VoVNet(**V2 | dict(norm_cfg=dict(norm, eps=1e-3)))
    torch.save(trained.state_dict(), tmp_path / 'a.pth')
    build(tmp_path / 'a.pth', V2 | dict(norm_cfg=dict(norm, eps=1e-3)))
    with pytest.raises(UserError, match='a.pth: has no .*bn.weight, .* set '
                       r'norm_cfg=dict\(..., eps=0.001\) in the backbone'):
        build(tmp_path / 'a.pth', V2 | dict(norm_cfg=norm))


def test_a_wrapped_backbone_keeps_its_options():
    """As DistributedDataParallel saves it."""
    wrapped = nn.ModuleDict(dict(module=VoVNet(**V2))).state_dict()
    other = VoVNet(**V2 | dict(pool='padded'))
    with pytest.raises(UserError, match="a.pth: .*set pool='ceil'"):
        load_strict(other, get_state_dict(wrapped, 'a.pth'), 'a.pth')


def test_what_is_beside_other_libraries_names_is_told():
    theirs = with_prefix(random_weights(NET, foreign.AUTHORS), 'backbone.')
    theirs['backbone.fpn_lateral2.weight'] = torch.ones(1)
    found = match_weights(Detector(**V2), theirs)
    assert found.unexpected == ['backbone.fpn_lateral2.weight']


# -- what is absorbed -------------------------------------------------------


def test_open_gates(tmp_path):
    """timm's eSE in last blocks, in a network with eSE everywhere."""
    state = random_weights(NET, foreign.TIMM)
    torch.save(state, tmp_path / 'a.pth')
    model = build(tmp_path / 'a.pth', V2)
    assert_computes(model, state, foreign.TIMM)
    added = model.stage3.block1.ese.fc
    assert not added.weight.any() and (added.bias == 3).all()


@pytest.mark.parametrize('new', [1e-5, 1e-3])
def test_batch_norm_without_eps(new, authors, tmp_path):
    """Also where the variance is smaller than eps."""
    for key, value in authors.items():
        if key.endswith('running_var'):
            value[::2] *= 1e-7
            authors[key.replace('running_var', 'weight')][::2] *= 1e-7**0.5
    torch.save(with_prefix(authors, 'module.backbone.body.'),
               tmp_path / 'a.pth')
    model = build(tmp_path / 'a.pth',
                  V2 | dict(norm_cfg=dict(type='BN', eps=new)))
    assert_computes(model, authors, foreign.AUTHORS, eps=0)


IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
BGR = dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_what_is_exact_is_so_for_files_in_half_precision(dtype, tmp_path):
    state = {k: v.to(dtype) if v.is_floating_point() else v
             for k, v in random_weights(NET, foreign.TIMM).items()}
    torch.save(state, tmp_path / 'a.pth')
    x = torch.randn(1, 3, 64, 64)
    std = torch.tensor(IMAGENET['std'])[:, None, None]
    model = build(
        tmp_path / 'a.pth', V2 | dict(norm_cfg=dict(type='BN', eps=1e-2)),
        data_preprocessor=dict(IMAGENET, std=[1.] * 3, bgr_to_rgb=True))
    whole = {k: v.float() for k, v in state.items()}
    with torch.inference_mode():
        assert_close(model(x * std), evaluate(whole, NET, foreign.TIMM, x))


@pytest.mark.parametrize('given', [
    dict(IMAGENET, rgb_to_bgr=True), dict(IMAGENET, to_rgb=True),
    dict(IMAGENET, bgr_to_rgb=True), BGR, dict(BGR, std=[1, 1, 1]),
    dict(IMAGENET, std=[2., 1., 3.], bgr_to_rgb=True, type='anything')])
def test_normalization_is_folded(given, tmp_path):
    """timm's weights want RGB and ImageNet's deviation."""
    state = random_weights(NET, foreign.TIMM)
    torch.save(state, tmp_path / 'a.pth')
    model = build(tmp_path / 'a.pth', V2, data_preprocessor=given)
    bgr = torch.rand(1, 3, 75, 64) * 255

    def normalize(cfg):
        turned = {'bgr_to_rgb', 'rgb_to_bgr', 'to_rgb'} & cfg.keys()
        image = bgr.flip(1) if turned else bgr
        mean, std = (torch.tensor(cfg[k])[:, None, None]
                     for k in ('mean', 'std'))
        return (image - mean) / std

    with torch.inference_mode():
        got = model(normalize(given))
        want = evaluate(state, NET, foreign.TIMM, normalize(
            dict(IMAGENET, bgr_to_rgb=True)))
    assert_close(got, want)


@pytest.mark.parametrize('library, given, told', [
    (foreign.TIMM, dict(BGR, bgr_to_rgb=True), 'the mean must be that of the'),
    (foreign.TIMM, dict(BGR, mean=[103., 116.28, 123.675]), 'the mean must'),
    (foreign.TIMM, dict(mean=[1.], std=[1.]), 'the mean must be that of the'),
    (foreign.TIMM, dict(mean=[1., 2.]), 'needs mean and std'),
    (foreign.TIMM, True, 'data_preprocessor=True: needs mean and std'),
    (foreign.AUTHORS, BGR, 'nothing says how the images were normalized'),
])
def test_normalization_that_cannot_be_folded(library, given, told, tmp_path):
    torch.save(random_weights(NET, library), tmp_path / 'a.pth')
    with pytest.raises(UserError, match=told):
        build(tmp_path / 'a.pth', V2, data_preprocessor=given)


# -- what the weights assume ------------------------------------------------

RGB = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False)
BGR_ONE = Normalization((103.53, 116.28, 123.675), (1., 1., 1.), True)


@pytest.mark.parametrize('name', [
    name for name, entry in KNOWN_WEIGHTS.items()
    if 'timm://' not in entry.url])
def test_downloaded_files_are_known_like_their_addresses(name):
    """The cache keeps addresses apart that end in the same file name."""
    url = KNOWN_WEIGHTS[name].url
    library, prefix = {
        'pytorchcv': (foreign.PYTORCHCV, ''),
        'vision-toolbox': (foreign.VISION_TOOLBOX, ''),
        'vision-toolbox-2022': (foreign.VISION_TOOLBOX, ''),
        'dd3d': (foreign.AUTHORS, 'backbone.bottom_up.')}.get(
            name.partition('/')[0], (foreign.AUTHORS, ''))
    state = with_prefix(random_weights(NET, library), prefix)
    of_address, of_path, renamed = (
        parse_checkpoint(state, source).variant.normalization
        for source in (url, f'/cache/{get_cache_name(url)}', 'renamed.pth'))
    assert of_address and of_path == of_address
    if name.startswith('dd3d'):
        # Renamed it would be taken for one of detectron2's.
        assert of_path.std == RGB.std[::-1] and renamed == BGR_ONE


def test_what_a_renamed_file_was_trained_with(tmp_path):
    state = random_weights(NET, foreign.AUTHORS)
    torch.save(with_prefix(state, 'backbone.bottom_up.'), tmp_path / 'a.pth')
    said = dict(mean=BGR['mean'], std=BGR['std'], bgr_to_rgb=False)
    model = build(tmp_path / 'a.pth', V2, trained_with=said)
    assert torch.equal(model.stem[0].conv.weight,
                       state['stem.stem_1/conv.weight'])
    assert parse_checkpoint(model.state_dict(), '').variant.normalization == (
        Normalization.from_config(said))
    # Folding begins there, too.
    d2 = dict(mean=BGR['mean'], std=[1.] * 3)
    model = build(tmp_path / 'a.pth', V2, trained_with=said,
                  data_preprocessor=d2)
    assert torch.allclose(
        model.stem[0].conv.weight * torch.tensor(BGR['std'])[:, None, None],
        state['stem.stem_1/conv.weight'])
    weights = parse_checkpoint(model.state_dict(), '')
    assert weights.variant.normalization == BGR_ONE
    with pytest.raises(UserError, match='trained_with=.*: needs mean and std'):
        build(tmp_path / 'a.pth', V2, trained_with=dict(mean=[1.]))


def test_published_names_are_known():
    assert 'timm/ese_vovnet39b.ra_in1k' in KNOWN_WEIGHTS
    assert KNOWN_WEIGHTS['pytorchcv/vovnet27s'].url.endswith(
        '/v0.0.551/vovnet27s-0997-b7a5bf67.pth.zip')
    assert KNOWN_WEIGHTS['authors/vovnet39_ese_detectron2'].license == \
        'CC BY-NC 4.0'
    assert len({entry.url for entry in KNOWN_WEIGHTS.values()}) == len(
        KNOWN_WEIGHTS)


class Detector(nn.Module):

    def __init__(self, name='backbone', **options):
        super().__init__()
        self.add_module(name, VoVNet(**options))
        self.neck = nn.Linear(2, 3)


def test_trained_weights_remember_their_options(tmp_path):
    """MMEngine's checkpoints of a detector, as of a plain backbone."""
    path = str(tmp_path / 'a.pth')
    trained = Detector(**V2)
    save_checkpoint(dict(meta={}, state_dict=weights_to_cpu(
        trained.state_dict())), path)  # as a runner does it
    weights = read_weights(path)
    assert weights.prefix == 'backbone.'
    assert weights.variant == Variant(
        'strided', True, 'all', 'ceil', False, eps=1e-5)
    with pytest.raises(UserError, match="set stem='strided' in the backbone"):
        build(path, V2 | dict(stem='pooled'))
    other = Detector(**V2 | dict(pool='padded'))
    with pytest.raises(UserError, match="at 'backbone.': .*set pool='ceil'"):
        load_checkpoint(other, path)
    with pytest.raises(UserError, match="^VoVNet: my a: .*set pool='ceil'"):
        load_strict(other, get_state_dict(load_file(path), 'my a'), path)
    same = Detector(**V2)
    load_checkpoint(same, path)
    assert all(torch.equal(a, b) for a, b in zip(
        same.state_dict().values(), trained.state_dict().values()))


def test_safetensors_remember_their_options(tmp_path):
    """The format's metadata hold them; other libraries' files have none."""
    state = random_weights(NET, foreign.TIMM)
    theirs, ours = (str(tmp_path / f'{name}.safetensors') for name in 'ab')
    save_file(state, theirs)
    said = convert(theirs, ours)[0].variant
    assert said.stem == 'strided' and said.normalization == RGB
    assert read_weights(ours).variant == said
    assert load_file(ours)['meta']['scheme'] == 'timm'
    assert_computes(build(ours, V2), state, foreign.TIMM)
    paper = V2 | dict(stem='pooled', residual=False)
    with pytest.raises(UserError, match="set stem='strided', residual=True"):
        build(ours, paper)
    with pytest.raises(UserError, match="set stem='strided', residual=True"):
        load_checkpoint(VoVNet(**paper), ours)
    with safe_open(ours, 'pt') as file:  # to others just a file of tensors
        assert file.metadata()['format'] == 'pt'
        assert len(list(file.keys())) == len(state)
    convert(ours, theirs, 'timm')
    with safe_open(theirs, 'pt') as file:
        assert file.metadata() == dict(format='pt')
    assert load_file(theirs).keys() == state.keys()


def test_eps_is_remembered(tmp_path):
    options = V2 | dict(norm_cfg=dict(type='BN', eps=1e-3))
    trained = build_randomly(options)
    torch.save(trained.state_dict(), tmp_path / 'a.pth')
    assert read_weights(str(tmp_path / 'a.pth')).variant.eps == 1e-3
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert_close(build(tmp_path / 'a.pth', V2)(x), trained(x))


def build_randomly(options):
    model = VoVNet(**options).eval()
    for name, value in model.state_dict().items():
        if 'running' in name:  # small enough for eps to count
            value.uniform_(0, 1e-2)
    return model


def test_weights_without_a_record_are_taken_by_name(tmp_path):
    state = OrderedDict(VoVNet(**V2).state_dict())  # as of an older version
    torch.save(dict(state), tmp_path / 'a.pth')
    model = build(tmp_path / 'a.pth', V2 | dict(stem='pooled'))
    assert torch.equal(model.stem[0].conv.weight, state['stem.0.conv.weight'])
    with pytest.raises(UserError, match="set ese='all'"):
        build(tmp_path / 'a.pth', V2 | dict(ese='none'))
    weights = read_weights(str(tmp_path / 'a.pth'))
    assert 'stem unknown, residual unknown, ese=' in str(weights)
    with pytest.raises(UserError, match='nothing says with which stem'):
        export_weights(weights, 'authors')


def test_group_norm(tmp_path):
    """As in the authors' networks from scratch, without statistics."""
    options = V2 | dict(norm_cfg=dict(type='GN', num_groups=2))
    theirs = {k: v for k, v in random_weights(NET, foreign.AUTHORS).items()
              if 'running' not in k and 'batches' not in k}
    torch.save(dict(model=with_prefix(theirs, 'module.backbone.body.')),
               tmp_path / 'a.pth')
    model = build(tmp_path / 'a.pth', options)
    assert torch.equal(model.stage5.block1.aggregation.gn.bias, theirs[
        'stage5.OSA5_1.concat.OSA5_1_concat/norm.bias'])


def test_whole_detectors_load_other_names(authors, tmp_path):
    """``load_from`` of mmdet3d's PETR and its kin."""
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict={
        **with_prefix(authors, 'img_backbone.'),
        'neck.weight': torch.ones(3, 2)}), path)
    model = Detector('img_backbone', **V2)
    found = match_weights(model, torch.load(path)['state_dict'])
    assert found.missing == ['neck.bias']
    assert set(found.unexpected) == {
        'img_backbone.head.fc.weight', 'img_backbone.head.fc.bias'}
    load_checkpoint(model, path)
    assert_computes(model.img_backbone.eval(), authors, foreign.AUTHORS)
    assert (model.neck.weight == 1).all()
    with pytest.raises(UserError, match="set residual=True in the backbone"):
        load_checkpoint(Detector('img_backbone', **V2 | dict(residual=False)),
                        path)


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmpretrain'])
def test_vovnet_cp(scope, tmp_path):
    """A config of mmdet3d's projects, not a word changed."""
    state = random_weights(NETS['19-slim-dw'], foreign.AUTHORS)
    torch.save(dict(state_dict=with_prefix(state, 'img_backbone.')),
               tmp_path / 'a.pth')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(dict(
            type='VoVNetCP', spec_name='V-19-slim-dw-eSE', norm_eval=True,
            frozen_stages=-1, input_ch=3, out_features=('stage4', 'stage5'),
            pretrained=str(tmp_path / 'a.pth')))
    model.init_weights()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        want = evaluate(state, NETS['19-slim-dw'], foreign.AUTHORS, x)[2:]
        assert_close(model.eval()(x), want)


def test_vovnet_cp_beside_that_of_a_project(monkeypatch):
    """mmdet3d's PETR registers its own in mmdet3d's scope, which wins."""
    monkeypatch.setattr(MODELS, '_children', dict(MODELS._children))
    theirs = Registry('model', scope='mmdet3d', parent=MODELS)

    @theirs.register_module(name='VoVNetCP')
    class Theirs(nn.Module):
        def __init__(self, spec_name):
            super().__init__()

    cfg = dict(spec_name='V-19-slim-dw-eSE')
    for registry in (MODELS, theirs):
        with DefaultScope.overwrite_default_scope('mmdet3d'):
            assert type(registry.build(dict(cfg, type='VoVNetCP'))) is Theirs
            assert type(registry.build(
                dict(cfg, type='mmengine.VoVNetCP'))) is VoVNetCP


def test_vovnet_cp_is_a_vovnet_with_other_defaults():
    model = VoVNetCP('V-19-slim-dw-eSE').train()
    assert model.out_channels == (112, 256, 384, 512)
    assert model.with_cp == 'block'
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    frozen = VoVNetCP('V-19-slim-dw-eSE', frozen_stages=1, with_cp=False,
                      init_cfg=dict(type='Pretrained', checkpoint='a'))
    # Theirs: 0 freezes the stem, k also the stages 2 to k + 1.
    learning = {name.partition('.')[0] for name, weight
                in frozen.named_parameters() if weight.requires_grad}
    assert learning == {'stage3', 'stage4', 'stage5'}
    assert frozen.init_cfg == dict(type='Pretrained', checkpoint='a')
    assert VoVNetCP('V-39-eSE', arch='V2-19').arch == 'V2-19'
    assert VoVNetCP('V-39-eSE', 4).stem[0].conv.in_channels == 4


@pytest.mark.parametrize('options, told', [
    (dict(spec_name='V-19-slim-dw'), "VoVNet: arch='V-19-slim-dw' is not"),
    (dict(spec_name=None), 'VoVNetCP: needs spec_name'),
    (dict(out_features=['stem']), "out_features='stem' is not one of 'stage2"),
    (dict(pretrained='a', init_cfg=dict(type='Pretrained', checkpoint='b')),
     'pretrained and init_cfg say the same')])
def test_bad_options_of_vovnet_cp(options, told):
    with pytest.raises(ValueError, match=told):
        VoVNetCP(**{'spec_name': 'V-19-slim-dw-eSE', **options})


def test_part_of_a_state_dict_loads_as_ever():
    state = VoVNet(**V2).state_dict()
    del state['stage3.block1.aggregation.conv.weight']
    found = VoVNet(**V2).load_state_dict(state, strict=False)
    assert found.missing_keys == ['stage3.block1.aggregation.conv.weight']
    with pytest.raises(RuntimeError, match='Missing key'):
        VoVNet(**V2).load_state_dict({})


# -- and back ---------------------------------------------------------------


def test_timm_to_the_authors_and_back(tmp_path):
    """The authors' code wants eSE everywhere: gates that change nothing."""
    state = random_weights(NET, foreign.TIMM, classes=4)
    theirs = export_weights(parse_checkpoint(state, 'a'), 'authors',
                            'backbone.bottom_up.', images='keep')
    x = torch.randn(1, 3, 64, 64)
    bare = {k.removeprefix('backbone.bottom_up.'): v
            for k, v in theirs.items()}
    assert bare.keys() == random_weights(
        NET, foreign.AUTHORS, classes=4).keys()
    for a, b in zip(evaluate(bare, NET, foreign.AUTHORS, x),
                    evaluate(state, NET, foreign.TIMM, x), strict=True):
        assert torch.equal(a, b)
    back = export_weights(parse_checkpoint(theirs, 'a'), 'timm', images='keep')
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)


@pytest.mark.parametrize('name, prefix', [
    ('detectron2', 'backbone.bottom_up.'), ('mmdet3d', 'img_backbone.')])
def test_images_of_another_library(name, prefix, tmp_path):
    """timm wants RGB with ImageNet's deviations, others' users give BGR."""
    state = random_weights(NET, foreign.TIMM)
    torch.save(state, tmp_path / 'timm.pth')
    source, target = (str(tmp_path / file) for file in ('timm.pth', 'a.pth'))
    given = dict(detectron2=BGR_ONE, mmdet3d=Normalization(
        BGR_ONE.mean, RGB.std[::-1], bgr=True))[name]
    with pytest.raises(UserError) as error:
        convert(source, target, name)
    assert str(error.value) == (
        f'{source}: the weights want {RGB}, but files in these names are '
        f'taken for {given}; say --images fold, which puts the difference '
        'into the stem, or --images keep, and normalize as the weights want')
    convert(source, target, name, images='fold')
    pixels = torch.randint(0, 256, (1, 3, 64, 64)).float()

    def normalize(images):
        return (pixels.flip(1) if images.bgr else pixels).sub(
            torch.tensor(images.mean)[:, None, None]).div(
                torch.tensor(images.std)[:, None, None])

    folded = {k.removeprefix(prefix): v for k, v in load_file(target).items()}
    assert read_weights(target).variant.normalization == given
    assert_close(evaluate(folded, NET, foreign.AUTHORS, normalize(given)),
                 evaluate(state, NET, foreign.TIMM, normalize(RGB)))
    convert(source, target, name, images='keep')
    kept = load_file(target)[f'{prefix}stem.stem_1/conv.weight']
    assert torch.equal(kept, state['stem.0.conv.weight'])


def test_normalization_is_folded_where_the_weights_are():
    """They may have been loaded to a GPU; `meta` stands for it here."""
    weights = {'stem.0.conv.weight': torch.ones(8, 3, 3, 3, device='meta')}
    folded = fold_normalization(
        weights, Normalization((1., 2., 3.), (4., 5., 6.), False),
        Normalization((3., 2., 1.), (1., 1., 1.), True))
    assert folded['stem.0.conv.weight'].device.type == 'meta'


def test_images_that_cannot_be_folded():
    v2_57 = parse_checkpoint(random_weights(NETS['57'], foreign.TIMM), 'a')
    with pytest.raises(UserError, match='taken for .* say --images keep,'):
        export_weights(v2_57, 'authors', 'img_backbone.')
    with pytest.raises(UserError, match='mean must be that of the weights'):
        export_weights(v2_57, 'authors', 'img_backbone.', 'fold')
    with pytest.raises(UserError, match='which images users of these names'):
        export_weights(v2_57, 'mmengine', images='fold')
    unknown = parse_checkpoint(random_weights(NET, foreign.AUTHORS), 'a')
    with pytest.raises(UserError, match='which images the weights want'):
        export_weights(unknown, 'authors', 'img_backbone.', 'fold')
    export_weights(unknown, 'authors', 'img_backbone.')


@pytest.mark.parametrize('library', LIBRARIES)
def test_own_names_and_back(library, tmp_path):
    """Through a file in this project's names, which keeps the variant."""
    state = random_weights(NET, LIBRARIES[library])
    weights = parse_checkpoint(state, 'a')
    torch.save(dict(state_dict=export_weights(weights, 'mmengine')),
               tmp_path / 'a.pth')
    again = read_weights(str(tmp_path / 'a.pth'))
    assert again.scheme == 'mmengine'
    assert again.variant == weights.variant
    back = export_weights(again, weights.scheme)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)


@pytest.mark.parametrize('library, name', [
    (foreign.AUTHORS_V1, 'detectron2'), (foreign.AUTHORS_V1, 'mmdet3d'),
    (foreign.PYTORCHCV, 'mmdet3d')])
def test_v1_where_all_blocks_have_ese(library, name, tmp_path):
    """Then it has open gates, and no gate is left random."""
    state = random_weights(NET, library)
    torch.save(state, tmp_path / 'a.pth')
    target = str(tmp_path / 'b.pth')
    convert(str(tmp_path / 'a.pth'), target, name,
            images=None if library is foreign.AUTHORS_V1 else 'keep')
    prefix = dict(detectron2='backbone.bottom_up.', mmdet3d='img_backbone.')
    theirs = {k.removeprefix(prefix[name]): v
              for k, v in load_file(target).items()}
    assert theirs.keys() == random_weights(NET, foreign.AUTHORS).keys()
    x = torch.randn(1, 3, 64, 64)
    for a, b in zip(evaluate(theirs, NET, foreign.AUTHORS, x),
                    evaluate(state, NET, library, x), strict=True):
        assert torch.equal(a, b)


def test_last_gates_where_others_have_all(tmp_path):
    """vision-toolbox has eSE in all blocks or in none."""
    trained = build_randomly(dict(
        arch=TINY, residual='same-width', ese='last', pool='padded'))
    weights = parse_checkpoint(trained.state_dict(), 'a')
    theirs = export_weights(weights, 'vision-toolbox')
    assert theirs.keys() == random_weights(NET, foreign.VISION_TOOLBOX).keys()
    x = torch.randn(1, 3, 75, 64)
    with torch.inference_mode():
        assert_close(evaluate(theirs, NET, foreign.VISION_TOOLBOX, x),
                     trained(x))


def test_eps_of_another_library():
    """maskrcnn-benchmark's batch norm has none, detectron2's has."""
    state = random_weights(NET, foreign.AUTHORS)
    for key, value in state.items():
        if key.endswith('running_var'):
            value *= 1e-3
    weights = parse_checkpoint(with_prefix(state, 'backbone.body.'), 'a')
    theirs = export_weights(weights, 'authors')
    x = torch.randn(1, 3, 64, 64)
    assert_close(evaluate(theirs, NET, foreign.AUTHORS, x),
                 evaluate(state, NET, foreign.AUTHORS, x, eps=0))


def test_classifiers_of_mmpretrain_and_back(tmp_path):
    state = random_weights(NET, foreign.TIMM, classes=4)
    files = [str(tmp_path / f'{name}.pth') for name in 'abc']
    torch.save(state, files[0])
    assert convert(*files[:2], 'mmpretrain')[1] == len(state)
    ours = load_file(files[1])['state_dict']
    assert {k for k in ours if not k.startswith('backbone.')} == {
        'head.fc.weight', 'head.fc.bias'}
    assert convert(*files[1:], 'timm')[1] == len(state)
    back = load_file(files[2])
    assert back.keys() == state.keys()
    assert all(torch.equal(back[k], state[k]) for k in state)
    assert not read_weights(files[1]).left_out


@pytest.mark.parametrize('library, scheme, told', [
    (foreign.AUTHORS, 'timm', 'timm has eSE in the last block'),
    (foreign.AUTHORS_V1, 'timm', 'timm has residual=False'),
    (foreign.AUTHORS, 'pytorchcv', 'pytorchcv has no name for 12'),
    (foreign.VISION_TOOLBOX, 'authors', "authors has stem='strided'"),
    (foreign.TIMM_A, 'authors', 'authors has residual=True'),
    (foreign.PYTORCHCV, 'vision-toolbox', "vision-toolbox has stem='pooled'"),
])
def test_what_another_library_cannot_say(library, scheme, told):
    weights = parse_checkpoint(random_weights(NET, library), 'a')
    with pytest.raises(UserError, match=told):
        export_weights(weights, scheme)
