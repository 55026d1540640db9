"""The VoVNet backbone against the papers, timm and straight-line code."""
import copy
import logging
import re

import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vovnet.models import VoVNet, arch_settings

ARCHS = list(arch_settings)
TINY = dict(num_blocks=(1, 2), num_layers=2, stage_channels=(8, 12),
            aggregated_channels=(16, 24), stem_channels=(8, 8, 12))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def num_parameters(model):
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model, size):
    """Count k*k*ci/groups*co*h*w of every convolution, at (1, 3, size, size).
    """
    total = 0

    def count(module, _, out):
        nonlocal total
        k = module.kernel_size
        total += (k[0] * k[1] * module.in_channels // module.groups *
                  out.shape[1] * out.shape[2] * out.shape[3])

    handles = [m.register_forward_hook(count) for m in model.modules()
               if isinstance(m, nn.Conv2d)]
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return total


# Backbones' parameters in millions and multiply-adds in billions at 224 px
# with the strided and the pooled stem: stated by timm, vision-toolbox,
# pytorchcv and the authors' README wherever those have the network.
@pytest.mark.parametrize('arch, params, strided, pooled', [
    ('V1-27-slim', 3.013, 2.18, 2.87),
    ('V1-39', 21.575, 7.07, 7.76),
    ('V1-57', 35.615, 8.93, 9.62),
    ('V1-75', 45.918, 12.32, None),
    ('V1-93', 56.221, 15.70, None),
    ('V2-19-slim-dw', 1.385, 0.40, None),
    ('V2-19-dw', 5.518, 1.33, None),
    ('V2-19-slim', 2.653, 1.68, None),
    ('V2-19', 10.180, 4.12, None),
    ('V2-39', 25.184, 7.07, None),
    ('V2-57', 41.455, 8.93, None),
    ('V2-99', 69.524, 16.49, None),
])
def test_parameters_and_multiply_adds(arch, params, strided, pooled):
    model = VoVNet(arch, stem='strided').eval()
    assert round(num_parameters(model) / 1e6, 3) == params
    assert round(multiply_adds(model, 224) / 1e9, 2) == strided
    if pooled:
        model = VoVNet(arch, stem='pooled').eval()
        assert round(num_parameters(model) / 1e6, 3) == params
        assert round(multiply_adds(model, 224) / 1e9, 2) == pooled


def test_every_arch_is_counted():
    marks = test_parameters_and_multiply_adds.pytestmark
    assert [row[0] for row in marks[0].args[1]] == ARCHS


@pytest.mark.parametrize('arch, params', [
    ('V2-39', 23.544), ('V2-57', 37.584), ('V2-99', 62.174)])
def test_parameters_with_ese_on_last_blocks(arch, params):
    model = VoVNet(arch, ese='last')
    assert round(num_parameters(model) / 1e6, 3) == params


# Paper, section on DSOD300 and RefineDet320: see the reference of the
# multiply-adds behind its Tables 2 and 4.
@pytest.mark.parametrize('arch, size, gmacs', [
    ('V1-27-slim', 300, 5.10), ('V1-39', 320, 15.85), ('V1-57', 320, 19.64)])
def test_multiply_adds_of_the_papers_detectors(arch, size, gmacs):
    model = VoVNet(arch).eval()
    assert round(multiply_adds(model, size) / 1e9, 2) == gmacs
    if arch == 'V1-27-slim':
        assert num_parameters(model) == 3_012_736


# The maps are as the papers' networks have them; 1333 shows that the two
# stems differ by the pool's missing border.
@pytest.mark.parametrize('stem, size, maps', [
    ('pooled', 300, (75, 37, 18, 9)), ('strided', 300, (75, 37, 18, 9)),
    ('pooled', 320, (80, 40, 20, 10)), ('strided', 320, (80, 40, 20, 10)),
    ('pooled', 200, (50, 25, 12, 6)), ('strided', 200, (50, 25, 12, 6)),
    ('pooled', 1333, (333, 166, 83, 41)),
    ('strided', 1333, (334, 167, 83, 41))])
def test_map_sizes(stem, size, maps):
    tiny = dict(num_blocks=(1, 1, 1, 1), num_layers=1,
                stage_channels=(4, 4, 4, 4), aggregated_channels=(4, 4, 4, 4),
                stem_channels=(4, 4, 4))
    outs = VoVNet(tiny, stem=stem).eval()(torch.zeros(1, 3, size, 64))
    assert tuple(out.shape[2] for out in outs) == maps


@pytest.mark.parametrize('arch', ARCHS)
def test_outputs_are_declared_and_every_parameter_learns(arch):
    model = VoVNet(arch)
    model.init_weights()
    outs = model(torch.randn(2, 3, 64, 64))
    assert isinstance(outs, tuple)
    assert [o.shape for o in outs] == [
        (2, c, 64 // s, 64 // s)
        for c, s in zip(model.out_channels, model.strides)]
    sum(o.square().mean() for o in outs).backward()
    still = [n for n, p in model.named_parameters()
             if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still


def from_timm(state):
    """timm's keys in this project's names (its classifier left out)."""
    rules = [
        (r'^stages\.(\d)\.blocks\.(\d+)\.',
         lambda m: f'stage{int(m[1]) + 2}.block{int(m[2]) + 1}.'),
        (r'conv_mid', 'layers'), (r'conv_concat', 'aggregation'),
        (r'conv_reduction', 'reduction'), (r'attn\.', 'ese.'),
        (r'conv_dw', 'depthwise_conv.conv'),
        (r'conv_pw', 'pointwise_conv.conv')]
    separable = {k.split('conv_pw')[0] for k in state if 'conv_pw' in k}
    out = {}
    for key, value in state.items():
        if key.startswith('head'):
            continue
        stem, dot_bn, leaf = key.rpartition('bn.')
        if dot_bn and stem in separable:
            key = f'{stem}pointwise_conv.bn.{leaf}'
        for pattern, to in rules:
            key = re.sub(pattern, to, key)
        out[key] = value
    return out


@pytest.mark.parametrize('name, options', [
    ('ese_vovnet19b_dw', dict(arch='V2-19-dw')),
    ('ese_vovnet19b_slim_dw', dict(arch='V2-19-slim-dw')),
    ('ese_vovnet19b_slim', dict(arch='V2-19-slim')),
    ('ese_vovnet19b', dict(arch='V2-19')),
    ('ese_vovnet39b', dict(arch='V2-39', ese='last')),
    ('ese_vovnet57b', dict(arch='V2-57', ese='last')),
    ('ese_vovnet99b', dict(arch='V2-99', ese='last')),
    ('vovnet39a', dict(arch='V1-39', stem='strided')),
    ('vovnet57a', dict(arch='V1-57', stem='strided')),
])
def test_equals_timm(name, options):
    # Built from its table: timm registers no entry for the plain 19b.
    theirs = timm.models.vovnet.VovNet(
        timm.models.vovnet.model_cfgs[name]).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    ours = VoVNet(**options).eval()
    ours.load_state_dict(from_timm(theirs.state_dict()))
    x = torch.randn(2, 3, 75, 64)
    with torch.inference_mode():
        want = theirs.forward_features(x)
        got = ours(x)[-1]
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-5 * want.abs().max())


def papers_vovnet(state, x, blocks):
    """Table 1 in straight lines: V1, evaluated from a state dict."""

    def conv(x, name, stride=1):
        weight = state[f'{name}.conv.weight']
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        mean, var, gamma, beta = (
            state[f'{name}.bn.{k}'][:, None, None]
            for k in ('running_mean', 'running_var', 'weight', 'bias'))
        return ((x - mean) / (var + 1e-5).sqrt() * gamma + beta).clamp(min=0)

    for i, stride in enumerate((2, 1, 1)):
        x = conv(x, f'stem.{i}', stride)
    outs = []
    for stage, num in zip((2, 3, 4, 5), blocks):
        # Caffe's pooling: unpadded, the last window cut off by the border.
        pad = [-(size - 3) % 2 for size in x.shape[:1:-1]]
        x = F.max_pool2d(
            F.pad(x, (0, pad[0], 0, pad[1]), value=-torch.inf), 3, 2)
        for b in range(1, num + 1):
            features = [x]
            for i in range(5):
                features.append(conv(
                    features[-1], f'stage{stage}.block{b}.layers.{i}'))
            x = conv(torch.cat(features, 1),
                     f'stage{stage}.block{b}.aggregation')
        outs.append(x)
    return outs


@pytest.mark.parametrize('arch, blocks', [
    ('V1-27-slim', (1, 1, 1, 1)), ('V1-39', (1, 1, 2, 2)),
    ('V1-57', (1, 1, 4, 3))])
def test_equals_the_papers_table(arch, blocks):
    model = VoVNet(arch).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 3, 75, 70, dtype=torch.double)
    with torch.inference_mode():
        want = papers_vovnet(model.state_dict(), x, blocks)
        for got, ref in zip(model(x), want, strict=True):
            assert torch.allclose(got, ref, rtol=1e-9, atol=1e-9)


def test_residual_adds_the_input_after_ese_without_activation():
    model = VoVNet(TINY, residual=True, ese='all').eval()
    block = model.stage3.block2
    assert not model.stage3.block1.residual
    x = torch.randn(1, 24, 6, 6) - 5
    y = x
    features = [x]
    for layer in block.layers:
        y = layer(y)
        features.append(y)
    z = block.aggregation(torch.cat(features, 1))
    gate = F.relu6(F.conv2d(z.mean((2, 3), keepdim=True), block.ese.fc.weight,
                            block.ese.fc.bias) + 3) / 6
    want = z * gate + x
    assert want.min() < 0
    assert torch.allclose(block(x), want, atol=1e-6)


@pytest.mark.parametrize('ese, where', [
    ('none', []), ('last', ['stage2.block1', 'stage3.block2']),
    ('all', ['stage2.block1', 'stage3.block1', 'stage3.block2'])])
def test_where_ese_sits(ese, where):
    model = VoVNet(TINY, ese=ese)
    found = [n.removesuffix('.ese') for n, m in model.named_modules()
             if type(m).__name__ == 'ESE']
    assert found == where


@pytest.mark.parametrize('arch', ARCHS)
def test_variant_follows_from_the_arch(arch):
    v1, v2 = VoVNet(arch), arch.startswith('V2')
    kinds = {type(m).__name__ for m in v1.modules()}
    assert ('ESE' in kinds) == v2
    assert hasattr(v1.stage2, 'pool') == (not v2)
    assert [m.conv.stride[0] if hasattr(m, 'conv') else
            m.depthwise_conv.conv.stride[0] for m in v1.stem] == (
                [2, 1, 2] if v2 else [2, 1, 1])
    assert any(getattr(m, 'residual', False) for m in v1.modules()) == (
        v2 and '19' not in arch)


def test_outputs_and_input_channels():
    model = VoVNet('V2-19-slim-dw', in_channels=1, out_indices=(1, 3)).eval()
    assert model.out_channels == (256, 512)
    assert model.strides == (8, 32)
    outs = model(torch.zeros(1, 1, 64, 96))
    assert [o.shape for o in outs] == [(1, 256, 8, 12), (1, 512, 2, 3)]


def test_stages_that_nobody_asks_for_are_not_built():
    model = VoVNet('V2-19-slim', out_indices=(0, 2), frozen_stages=1)
    assert [n for n, _ in model.named_children()] == [
        'stem', 'stage2', 'stage3', 'stage4']
    outs = model(torch.randn(2, 3, 64, 64))
    assert [o.shape[1] for o in outs] == [112, 384]
    sum(o.square().mean() for o in outs).backward()
    assert all(p.grad is not None for p in model.parameters()
               if p.requires_grad)


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 3, 4])
def test_frozen_stages(frozen):
    model = VoVNet('V2-19-slim-dw', frozen_stages=frozen)
    model.train()
    names = ['stem', 'stage2', 'stage3', 'stage4', 'stage5']
    for i, name in enumerate(names):
        stage = getattr(model, name)
        is_frozen = i <= frozen
        assert all(p.requires_grad != is_frozen for p in stage.parameters())
        assert all(m.training != is_frozen for m in stage.modules())
    before = copy.deepcopy(model.state_dict())
    outs = model(torch.randn(2, 3, 64, 64))
    if frozen < 4:
        sum(o.sum() for o in outs).backward()
    moved = {k.split('.')[0] for k, v in model.state_dict().items()
             if not torch.equal(v, before[k])}
    assert moved == set(names[frozen + 1:])


def test_norm_eval_and_norm_without_gradient():
    model = VoVNet('V2-19-slim', norm_eval=True,
                   norm_cfg=dict(type='BN', requires_grad=False)).train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    assert len(norms) == 3 + 4 * 4
    assert not any(m.training or m.weight.requires_grad for m in norms)
    assert model.training and model.stage5.training
    assert model.stem[0].conv.weight.requires_grad


@pytest.mark.parametrize('norm_cfg, kind', [
    (dict(type='GN', num_groups=16), nn.GroupNorm),
    (dict(type='SyncBN'), nn.SyncBatchNorm), (dict(type='BN'), nn.BatchNorm2d)
])
def test_norm_types(norm_cfg, kind):
    model = VoVNet('V1-27-slim', norm_cfg=norm_cfg)
    assert sum(isinstance(m, kind) for m in model.modules()) == 3 + 4 * 6
    if kind is not nn.SyncBatchNorm:  # it runs on GPUs only
        model(torch.randn(2, 3, 64, 64))


def test_activation():
    model = VoVNet(TINY, act_cfg=dict(type='SiLU'))
    assert any(isinstance(m, nn.SiLU) for m in model.modules())
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())


@pytest.mark.parametrize('options, message', [
    (dict(arch='V3-39'), "arch='V3-39' is not one of 'V1-27-slim', 'V1-39'"),
    (dict(out_indices=(0, 4)), 'out_indices=4 is not one of 0, 1, 2, 3'),
    (dict(out_indices=(-1, )), 'out_indices=-1 is not one of 0, 1, 2, 3'),
    (dict(out_indices=()), 'out_indices=() must be a sequence'),
    (dict(out_indices=3), 'out_indices=3 must be a sequence'),
    (dict(out_indices=(2, 1)), 'out_indices=(2, 1) must be'),
    (dict(out_indices=(1, 1)), 'out_indices=(1, 1) must be'),
    (dict(norm_cfg=dict(type='GN')), 'needs num_groups'),
    (dict(arch=39), 'arch=39 is neither a name nor a dict'),
    (dict(arch=None), 'arch=None is neither'),
    (dict(arch=dict(num_blocks=3)), 'arch num_blocks=3 must be a sequence'),
    (dict(arch=dict(num_blocks=(1, ), stem_channels=8)),
     'arch stem_channels=8 must be a sequence'),
    (dict(frozen_stages=5),
     'frozen_stages=5 is not one of -1, 0, 1, 2, 3, 4'),
    (dict(out_features=('stage1', )), "out_features='stage1' is not one of "
     "'stage2', 'stage3', 'stage4', 'stage5'"),
    (dict(out_features=('stage4', ), out_indices=(2, )), 'give one of them'),
    (dict(pool='same'), "pool='same' is not one of 'ceil', 'padded'"),
    (dict(residual='all'),
     "residual='all' is not one of False, True, 'same-width'"),
    (dict(ese='first'), "ese='first' is not one of 'none', 'last', 'all'"),
    (dict(with_cp='layer'),
     "with_cp='layer' is not one of False, True, 'pointwise', 'block'"),
    (dict(stem='paper'), "stem='paper' is not one of 'pooled', 'strided'"),
    (dict(arch=dict(depth=39)), "'depth' is not one of 'num_blocks'"),
    (dict(arch=dict(num_layers=3)), "needs 'num_blocks'"),
    (dict(arch=dict(num_blocks=(1, 1))), 'stage_channels=(128, 160, 192, 224) '
     'must have 2 numbers'),
])
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        VoVNet(**options)
    assert '\n' not in str(error.value)


def save(path, model, prefix='', **extra):
    state = {f'{prefix}{k}': v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict={**state, **extra}), path)
    return str(path)


@pytest.fixture
def log():
    """What is logged, as (level, text)."""
    lines = []

    class Keep(logging.Handler):

        def emit(self, record):
            lines.append((record.levelname.lower(), record.getMessage()))

    logger, keep = MMLogger.get_current_instance(), Keep()
    logger.addHandler(keep)
    yield lines
    logger.removeHandler(keep)


def num_tensors(model):
    """All but batch norm's counters, which no forward pass reads."""
    return sum('num_batches_tracked' not in k for k in model.state_dict())


@pytest.mark.parametrize('prefix, given', [
    ('', None), ('module.', None), ('module.backbone.', 'backbone'),
    ('backbone.', 'backbone.'), ('backbone.', 'backbone')])
def test_pretrained(tmp_path, log, prefix, given):
    theirs = VoVNet(TINY)
    theirs.init_weights()
    path = save(tmp_path / 'a.pth', theirs, prefix)
    cfg = dict(type='Pretrained', checkpoint=path)
    ours = VoVNet(TINY,
                  init_cfg=dict(cfg, prefix=given) if given else cfg)
    ours.init_weights()
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
    total = num_tensors(theirs)
    assert log[-1] == (
        'info', f'VoVNet: {total} tensors loaded from {path}, 0 missing, '
        '0 unexpected')


def test_partly_pretrained_is_an_error(tmp_path):
    state = VoVNet(TINY).state_dict()
    # One tensor is left out and one has another shape.
    del state['stage3.block2.layers.1.conv.weight']
    state['stem.0.conv.weight'] = torch.zeros(8, 1, 3, 3)
    path = str(tmp_path / 'a.pth')
    torch.save(state, path)
    ours = VoVNet(TINY, init_cfg=dict(type='Pretrained', checkpoint=path))
    with pytest.raises(ValueError) as error:
        ours.init_weights()
    text = str(error.value)
    assert f'{path}: 2 of {num_tensors(ours)} tensors of the backbone' in text
    assert 'stage3.block2.layers.1.conv.weight is not in the file' in text
    assert '\n' not in text


def test_what_the_backbone_has_no_use_for_is_reported(tmp_path, log):
    theirs = VoVNet(TINY)
    state = theirs.state_dict()
    state['head.fc.weight'] = torch.zeros(3)
    path = str(tmp_path / 'a.pth')
    torch.save(state, path)
    VoVNet(TINY, init_cfg=dict(
        type='Pretrained', checkpoint=path)).init_weights()
    assert log[-1] == (
        'info', f'VoVNet: {num_tensors(theirs)} tensors loaded from {path},'
        ' 0 missing, 1 unexpected: head.fc.weight')


@pytest.mark.parametrize('prefix, told', [
    (None, "set arch='V1-27-slim'"), ('neck.', "behind 'backbone.'")])
def test_pretrained_with_nothing_that_fits_is_an_error(tmp_path, prefix,
                                                       told):
    path = save(tmp_path / 'a.pth', VoVNet('V1-27-slim'), 'backbone.')
    cfg = ConfigDict(type='Pretrained', checkpoint=path, prefix=prefix)
    with pytest.raises(ValueError) as error:
        VoVNet(TINY, init_cfg=cfg).init_weights()
    text = str(error.value)
    assert path in text and told in text and '\n' not in text


def test_pretrained_in_a_list_is_loaded_and_checked(tmp_path, log):
    theirs = VoVNet(TINY)
    theirs.init_weights()
    kaiming = dict(type='Kaiming', layer='Conv2d')
    good = save(tmp_path / 'a.pth', theirs)
    ours = VoVNet(TINY, init_cfg=[
        kaiming, dict(type='Pretrained', checkpoint=good)])
    ours.init_weights()
    assert torch.equal(ours.stem[1].conv.weight, theirs.stem[1].conv.weight)
    bad = save(tmp_path / 'b.pth', theirs.stem)
    ours = VoVNet(TINY, init_cfg=[
        kaiming, dict(type='Pretrained', checkpoint=bad)])
    with pytest.raises(ValueError, match='none of its tensors fits'):
        ours.init_weights()


@pytest.mark.parametrize('content, told', [
    ([1, 2], r'holds no named tensors \(but: list\)'),
    (torch.zeros(3), r'holds no named tensors \(but: Tensor\)'),
    (dict(state_dict=None), r'holds no named tensors \(but: state_dict\)'),
    (dict(state_dict={'stem.0.conv.weight': 3}), 'holds no named tensors'),
    ({'stem.0.bn.num_batches_tracked': torch.tensor(0)},
     'none of its tensors'),
])
def test_pretrained_that_is_no_checkpoint(tmp_path, content, told):
    path = str(tmp_path / 'a.pth')
    torch.save(content, path)
    model = VoVNet(TINY, init_cfg=dict(type='Pretrained', checkpoint=path))
    with pytest.raises(ValueError, match=told) as error:
        model.init_weights()
    assert path in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('options', [{}, dict(checkpoint='a', revise=1)])
def test_pretrained_with_wrong_options(options):
    model = VoVNet(TINY, init_cfg=dict(type='Pretrained', **options))
    with pytest.raises(ValueError, match='takes checkpoint and'):
        model.init_weights()


@pytest.mark.parametrize('pool, sizes', [
    ('ceil', (75, 37, 18, 9)), ('padded', (75, 38, 19, 10))])
def test_pools(pool, sizes):
    model = VoVNet('V1-27-slim', pool=pool).eval()
    with torch.inference_mode():
        outs = model(torch.zeros(1, 3, 300, 64))
    assert tuple(out.shape[2] for out in outs) == sizes


def test_residual_where_the_width_stays():
    model = VoVNet('V1-27-slim', residual='same-width')
    assert [getattr(model, name).block1.residual
            for name in model.stage_names] == [True, False, False, False]


def test_names_of_mmdet3d():
    model = VoVNet(arch='V-99-eSE', out_features=('stage4', 'stage5'))
    assert model.out_channels == (768, 1024) and model.strides == (16, 32)
    assert model.variant == VoVNet('V2-99').variant
    for name in ('19-slim-dw', '19-dw', '19-slim', '19', '39', '57'):
        assert VoVNet(f'V-{name}-eSE').out_channels == VoVNet(
            f'V2-{name}').out_channels


def test_kaiming_by_default():
    model = VoVNet('V1-39')
    model.init_weights()
    weight = model.stage4.block1.layers[3].conv.weight
    fan_out = 192 * 9
    assert abs(weight.std() / (2 / fan_out)**0.5 - 1) < 0.01
    norm = model.stage4.block1.layers[3].bn
    assert torch.equal(norm.weight, torch.ones(192))


@pytest.mark.parametrize('library', ['mmengine', 'mmdet', 'mmpretrain'])
def test_every_library_builds_it(library):
    registry = MODELS
    if library != 'mmengine':
        registry = __import__(f'{library}.registry', fromlist=['x']).MODELS
    model = registry.build(dict(type='VoVNet', arch='V2-19-slim-dw'))
    assert isinstance(model, VoVNet)


def test_batch_equals_single_images():
    model = VoVNet('V2-39').eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        both = model(x)
        for i in range(2):
            for a, b in zip(both, model(x[i:i + 1])):
                assert torch.allclose(a[i:i + 1], b, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model = VoVNet('V2-19-slim').train()
    with torch.autocast('cpu', dtype):
        outs = model(torch.randn(2, 3, 64, 64))
    sum(o.float().mean() for o in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


