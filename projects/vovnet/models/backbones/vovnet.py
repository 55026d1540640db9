"""VoVNet and VoVNetV2 backbones.

Sources:
- V1: Lee et al., arXiv:1904.09730, Table 1 (27-slim, 39, 57), and the authors'
  Caffe network (youngwanLEE/VoVNet-RefineDet@46fb3c5); 75 and 93 are from
  vov-net/VoVNet-Detectron@0176f70.
- V2: Lee and Park, arXiv:1911.06667, Figure 3, with the variants of
  youngwanLEE/vovnet-detectron2@b81c813.

Registered in MMEngine's root registry, so that every OpenMMLab library can
build ``type='VoVNet'``.
"""
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..layers import KAIMING_INIT
from ..recompute import RecomputeBlock, is_hooked, recompute


class Arch(NamedTuple):
    """Structure of a VoVNet: a row of the papers' tables.

    Attributes:
        num_blocks: OSA blocks of each stage.
        num_layers: 3x3 convolutions of a block.
        stage_channels: Width of those convolutions, per stage.
        aggregated_channels: Width of a block's output, per stage.
        stem_channels: Widths of the three stem convolutions.
        depthwise: Depthwise separable 3x3 convolutions (V2 "dw").
        stem: Default of :class:`VoVNet`'s ``stem``.
        residual: Default of its ``residual``.
        ese: Default of its ``ese``.
    """
    num_blocks: Sequence[int]
    num_layers: int = 5
    stage_channels: Sequence[int] = (128, 160, 192, 224)
    aggregated_channels: Sequence[int] = (256, 512, 768, 1024)
    stem_channels: Sequence[int] = (64, 64, 128)
    depthwise: bool = False
    stem: str = 'pooled'
    residual: bool = False
    ese: str = 'none'


_V2 = partial(Arch, stem='strided', residual=True, ese='all')
_SLIM = dict(stage_channels=(64, 80, 96, 112))
_DW = dict(stem_channels=(64, 64, 64), depthwise=True)

# 'V1-39' = 3 stem convolutions + 6 for each of its 6 OSA blocks (5 chained
# ones and the aggregating one). A slim stage 2 is 128 wide in V1, 112 in V2.
arch_settings: dict[str, Arch] = {
    'V1-27-slim': Arch(
        (1, 1, 1, 1), aggregated_channels=(128, 256, 384, 512), **_SLIM),
    'V1-39': Arch((1, 1, 2, 2)),
    'V1-57': Arch((1, 1, 4, 3)),
    'V1-75': Arch((1, 2, 6, 3)),
    'V1-93': Arch((1, 3, 8, 3)),
    'V2-19-slim-dw': _V2(
        (1, 1, 1, 1), 3, aggregated_channels=(112, 256, 384, 512),
        **_SLIM, **_DW),
    'V2-19-dw': _V2((1, 1, 1, 1), 3, **_DW),
    'V2-19-slim': _V2(
        (1, 1, 1, 1), 3, aggregated_channels=(112, 256, 384, 512), **_SLIM),
    'V2-19': _V2((1, 1, 1, 1), 3),
    'V2-39': _V2((1, 1, 2, 2)),
    'V2-57': _V2((1, 1, 4, 3)),
    'V2-99': _V2((1, 3, 9, 3)),
}

STEM_STRIDES = dict(pooled=(2, 1, 1), strided=(2, 1, 2))
POOLS = dict(ceil=dict(ceil_mode=True), padded=dict(padding=1))
CHECKPOINTS = ('pointwise', 'block')
CHOICES = dict(
    stem=tuple(STEM_STRIDES), residual=(False, True, 'same-width'),
    ese=('none', 'last', 'all'), pool=tuple(POOLS),
    with_cp=(False, True, *CHECKPOINTS))


class ESE(nn.Module):
    """Effective squeeze-excitation (VoVNetV2): one layer, no bottleneck.

    The paper writes a sigmoid; all released code and weights use the hard one,
    ``relu6(x + 3) / 6``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of (N, C, H, W)."""
        return x * F.hardsigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)))


class OSABlock(nn.Module):
    """One-Shot Aggregation: chained 3x3 convolutions, concatenated once.

    ::

        x ─ [reduction] ─ conv ─ conv ─ ... ─ conv
        │                  │      │            │
        └──────────────────┴──────┴────────────┴─ concat ─ 1x1 conv ─ [eSE]
        └ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ [identity] ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ + ─

    Nothing follows the addition. A depthwise block narrows its input first
    where the widths differ; what it concatenates is the input as it came.

    Args:
        in_channels: Channels of the input.
        layer_channels: Channels of each 3x3 convolution.
        out_channels: Channels after aggregation.
        num_layers: Number of 3x3 convolutions.
        depthwise: Make them depthwise separable: depthwise, pointwise, norm,
            activation, with nothing between the first two.
        residual: Add the input; needs in_channels == out_channels.
        ese: Put eSE behind the aggregating convolution.
        norm_cfg: Config of the norm layers.
        act_cfg: Config of the activations.
        bottleneck: Put a 1x1 convolution, with half the channels of the 3x3
            ones, before each of them.
    """

    def __init__(self, in_channels: int, layer_channels: int,
                 out_channels: int, num_layers: int, depthwise: bool,
                 residual: bool, ese: bool, norm_cfg: dict,
                 act_cfg: dict, bottleneck: bool = False) -> None:
        super().__init__()
        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.residual = residual
        self.reduction: nn.Module | None = None
        channels = in_channels
        if depthwise and in_channels != layer_channels:
            self.reduction = ConvModule(in_channels, layer_channels, 1, **cfg)
            channels = layer_channels
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            layer = []
            if bottleneck:
                layer.append(
                    ConvModule(channels, layer_channels // 2, 1, **cfg))
                channels = layer_channels // 2
            layer.append(
                build_conv3x3(channels, layer_channels, 1, depthwise, **cfg))
            self.layers.append(
                nn.Sequential(*layer) if bottleneck else layer[0])
            channels = layer_channels
        self.aggregation = ConvModule(
            in_channels + num_layers * layer_channels, out_channels, 1, **cfg)
        self.ese = ESE(out_channels) if ese else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        features = [x]
        y = x if self.reduction is None else self.reduction(x)
        for layer in self.layers:
            y = layer(y)
            features.append(y)
        y = self.ese(self.aggregation(torch.cat(features, dim=1)))
        return y + x if self.residual else y


class OSAStage(nn.Sequential):
    """OSA blocks of equal resolution, behind a max-pool in most stages.

    Args:
        in_channels: Channels of the input.
        layer_channels: Channels of the blocks' 3x3 convolutions.
        out_channels: Channels of the blocks' outputs.
        num_blocks: Number of blocks.
        pool: Border of the max-pool, see :class:`VoVNet`; None for no pool.
        residual: See :class:`VoVNet`.
        ese: See :class:`VoVNet`.
        **options: Others of :class:`OSABlock`.
    """

    def __init__(self, in_channels: int, layer_channels: int,
                 out_channels: int, num_blocks: int, pool: str | None,
                 residual: bool | str, ese: str, **options) -> None:
        super().__init__()
        if pool is not None:
            self.add_module('pool', nn.MaxPool2d(3, 2, **POOLS[pool]))
        for b in range(num_blocks):
            is_last = b == num_blocks - 1
            can_add = b > 0 or (
                residual == 'same-width' and in_channels == out_channels)
            self.add_module(f'block{b + 1}', OSABlock(
                in_channels, layer_channels, out_channels,
                residual=bool(residual) and can_add,
                ese=ese == 'all' or (ese == 'last' and is_last), **options))
            in_channels = out_channels

    @property
    def blocks(self) -> list[nn.Module]:
        """All but the pool."""
        return [module for name, module in self.named_children()
                if name != 'pool']


def build_conv3x3(in_channels: int, out_channels: int, stride: int,
                  depthwise: bool, norm_cfg: dict, act_cfg: dict
                  ) -> nn.Module:
    """Build a 3x3 convolution, norm and activation, depthwise if asked."""
    if not depthwise:
        return ConvModule(in_channels, out_channels, 3, stride, 1,
                          norm_cfg=norm_cfg, act_cfg=act_cfg)
    return DepthwiseSeparableConvModule(
        in_channels, out_channels, 3, stride, 1, bias=False,
        dw_norm_cfg=None, dw_act_cfg=None,
        pw_norm_cfg=norm_cfg, pw_act_cfg=act_cfg)


@MODELS.register_module()
class VoVNet(BaseModule):
    """VoVNet (V1) and VoVNetV2 backbones.

    Four options separate the paper's network from the released ones. The
    defaults of the first three follow from the arch name: V1 is the paper's
    network, V2 the authors' detectron2 one.

    ========================  =========  ============  ======  ========
    network                   stem       residual      ese     pool
    ========================  =========  ============  ======  ========
    paper, authors' Caffe V1  'pooled'   False         'none'  'ceil'
    released PyTorch V1,      'strided'  True          'none'  'ceil'
    pytorchcv
    timm ``vovnet39a/57a``    'strided'  False         'none'  'ceil'
    authors' V2               'strided'  True          'all'   'ceil'
    timm ``ese_vovnet*b``     'strided'  True          'last'  'ceil'
    vision-toolbox V1         'pooled'   'same-width'  'none'  'padded'
    vision-toolbox V2         'pooled'   'same-width'  'all'   'padded'
    ========================  =========  ============  ======  ========

    All max-pools are 3x3 with stride 2. By default they are unpadded and
    round up (Caffe's rule): 300 px gives maps of 75, 37, 18 and 9. Pad inputs
    to multiples of 32 where maps of exactly 1/32 are wanted.

    Args:
        arch: A name from ``arch_settings``, the authors' name of a V2
            ('V-99-eSE' is 'V2-99'), or a dict with the fields of
            :class:`Arch`, of which only ``num_blocks`` is required.
        in_channels: Channels of the images.
        out_indices: Stages to return, all by default; 0..3 are the papers'
            stages 2..5, of strides 4, 8, 16, 32. Later stages are not built.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the
            first k stages; their norm layers stay in eval mode.
        stem: 'pooled' (the paper: strides 2, 1, 1 and a max-pool before stage
            2) or 'strided' (released code: strides 2, 1, 2 and no pool).
        residual: Add the input of a block to its output, in all but the first
            block of a stage; 'same-width' also in the first, if its input has
            as many channels as its output (in stage 2 of V1-27-slim).
        ese: eSE in 'none', the 'last' block of each stage, or 'all' blocks.
        pool: Border of the max-pools: 'ceil' as above, or 'padded' by one
            pixel and rounded down, for maps of ceil(H / stride).
        bottleneck: Put a 1x1 convolution, with half the channels, before each
            3x3 one of the OSA blocks: the V1 paper's Table 3. Its text says
            half of the input's channels, which differs in the first layer of
            a block; the table's figures are of this.
        norm_cfg: Config of the norm layers. Group norm on slim archs needs
            ``num_groups=16``: 32 does not divide their widths.
        norm_eval: Keep all batch norm layers in eval mode in training.
        act_cfg: Config of the activations.
        with_cp: What training keeps for the backward pass: False everything;
            'pointwise' the inputs of the blocks and the outputs of the
            convolutions, from which norms, activations, eSE and
            concatenations are recomputed; 'block' (or True) only the inputs
            of the stem and the blocks, so that convolutions run twice.
            Outputs and batch norm buffers stay equal, gradients up to
            rounding. 'pointwise' costs no time where maps are large
            (docs/speed.md).
        init_cfg: Kaiming initialization by default. ``type='Pretrained'``
            takes the options of :class:`vovnet.checkpoints.PretrainedVoVNet`.
        out_features: ``out_indices`` by the names of mmdet3d's VoVNetCP:
            'stage2' to 'stage5'.

    Attributes:
        variant (dict): The options stem, residual, ese, pool and bottleneck.
            They are saved with the weights (in ``_metadata`` of the state
            dict), with the norms' eps and, if known, the normalization of
            images that the weights expect.
        out_channels (tuple[int]): Channels of each output.
        strides (tuple[int]): Stride of each output, in pixels of the input.

    Raises:
        ValueError: An option is outside its choices, or a pretrained
            checkpoint holds nothing for this network.
    """

    def __init__(
        self,
        arch: str | dict = 'V1-39',
        in_channels: int = 3,
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        stem: str | None = None,
        residual: bool | str | None = None,
        ese: str | None = None,
        pool: str = 'ceil',
        bottleneck: bool = False,
        norm_cfg: dict = dict(type='BN'),  # noqa: B006
        norm_eval: bool = False,
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006
        with_cp: bool | str = False,
        init_cfg: dict | Sequence[dict] | None = None,
        out_features: Sequence[str] | None = None,
    ) -> None:
        super().__init__(init_cfg or [*KAIMING_INIT])
        spec = _resolve_arch(arch)
        stem = spec.stem if stem is None else stem
        residual = spec.residual if residual is None else residual
        ese = spec.ese if ese is None else ese
        options = dict(stem=stem, residual=residual, ese=ese, pool=pool)
        for name, value in dict(options, with_cp=with_cp).items():
            _check_choice(name, value, CHOICES[name])
        num_stages = len(spec.num_blocks)
        _check_choice('frozen_stages', frozen_stages,
                      range(-1, num_stages + 1))
        if norm_cfg and norm_cfg.get('type') == 'GN' and \
                'num_groups' not in norm_cfg:
            raise ValueError("VoVNet: norm_cfg=dict(type='GN') needs "
                             'num_groups, e.g. 32, or 16 for slim archs')

        self.arch = arch
        self.spec = spec
        self.out_indices = _select_stages(out_indices, out_features,
                                          num_stages)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = 'block' if with_cp is True else with_cp
        self.variant = dict(options, bottleneck=bottleneck)

        cfg = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.stem = nn.Sequential()
        channels = in_channels
        for i, width in enumerate(spec.stem_channels):
            self.stem.append(
                build_conv3x3(channels, width, STEM_STRIDES[stem][i],
                              spec.depthwise and i > 0, **cfg))
            channels = width

        self.stage_names = []
        # Stages that no output needs would get no gradient, which DDP takes
        # for an error.
        for i in range(max(self.out_indices) + 1):
            # The papers count the stem as stage 1.
            name = f'stage{i + 2}'
            self.add_module(name, OSAStage(
                channels, spec.stage_channels[i], spec.aggregated_channels[i],
                spec.num_blocks[i],
                pool=pool if i > 0 or stem == 'pooled' else None,
                residual=residual, ese=ese, num_layers=spec.num_layers,
                depthwise=spec.depthwise, bottleneck=bottleneck, **cfg))
            self.stage_names.append(name)
            channels = spec.aggregated_channels[i]

        self.out_channels = tuple(
            spec.aggregated_channels[i] for i in self.out_indices)
        self.strides = tuple(2**(i + 2) for i in self.out_indices)
        self.weight_source = None  # see vovnet.checkpoints.normalization
        self._register_state_dict_hook(_save_variant)
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps of images (N, in_channels, H, W).

        Returns:
            For each of ``out_indices`` a map
            (N, out_channels[i], ~H / strides[i], ~W / strides[i]).
        """
        with_cp = self.with_cp
        # A compiler recomputes what is pointwise of its own accord.
        if with_cp == 'pointwise' and torch.compiler.is_compiling():
            with_cp = False
        if with_cp and torch.is_grad_enabled() and not any(
                is_hooked(getattr(self, name)) for name in self.stage_names):
            return self._forward_recomputed(x, with_cp == 'pointwise')
        x = self.stem(x)
        outs = []
        for i, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _forward_recomputed(self, x: Tensor, keep_convolutions: bool
                            ) -> tuple[Tensor, ...]:
        """Compute the feature maps, with less kept for the backward pass."""
        run = partial(recompute, keep_convolutions=keep_convolutions)
        stages = [getattr(self, name) for name in self.stage_names]
        # A stage's pool runs with the block before it.
        pool, *pools = [getattr(stage, 'pool', None) for stage in stages]
        *_, x = run(
            RecomputeBlock(self.stem, [(self.stem, False)], pool=pool), x)
        outs = []
        for i, (stage, pool) in enumerate(zip(stages, [*pools, None])):
            *blocks, last = stage.blocks
            for block in blocks:
                x, = run(describe_block(block), x)
            maps = run(describe_block(last, pool), x)
            x = maps[-1]
            if i in self.out_indices:
                outs.append(maps[0])
        return tuple(outs)

    def train(self, mode: bool = True) -> 'VoVNet':
        """Set the mode; frozen stages and, if asked, norms stay in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says; load and report if pretrained."""
        if self.is_init:
            return
        cfgs = self.init_cfg if isinstance(self.init_cfg, list) else [
            self.init_cfg]
        files = [cfg for cfg in cfgs if cfg.get('type') == 'Pretrained']
        if len(files) < len(cfgs):
            whole = self.init_cfg
            self.init_cfg = [cfg for cfg in cfgs if cfg not in files]
            super().init_weights()
            self.init_cfg = whole
        for cfg in files:
            known = {'type', 'checkpoint', 'prefix', 'map_location',
                     'data_preprocessor', 'trained_with'}
            if not {'type', 'checkpoint'} <= cfg.keys() <= known:
                raise ValueError(
                    "VoVNet: init_cfg=dict(type='Pretrained') takes "
                    'checkpoint and, optionally, prefix, map_location, '
                    'data_preprocessor and trained_with, got '
                    f'{", ".join(cfg)}')
            # vovnet.checkpoints imports this module.
            from ...checkpoints.pretrained import PretrainedVoVNet
            options = {k: v for k, v in cfg.items() if k != 'type'}
            PretrainedVoVNet(**options)(self)
        self._is_init = True

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for name in ['stem', *self.stage_names[:self.frozen_stages]]:
            module = getattr(self, name)
            module.eval()
            module.requires_grad_(False)

    def _load_from_state_dict(self, state_dict: dict, prefix: str,
                              local_metadata: dict, *args) -> None:
        """Also take other libraries' names, refuse other options' weights."""
        from ...checkpoints.weights import convert_before_loading
        convert_before_loading(self, state_dict, prefix, local_metadata)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, *args)


def get_variant(model: VoVNet) -> dict[str, Any]:
    """Return what the names of a backbone's weights do not tell.

    That is its variant, the eps of its batch norms, and the normalization of
    images that its weights expect, if known.
    """
    known = dict(model.variant)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            known['eps'] = module.eps
            break
    source = model.weight_source
    if source and source.normalization:
        known['normalization'] = source.normalization.to_list()
    return known


def _save_variant(module: VoVNet, state_dict: dict, prefix: str,
                  local_metadata: dict) -> None:
    local_metadata['dialect'] = get_variant(module)


def describe_block(block: nn.Module, pool: nn.Module | None = None
                   ) -> RecomputeBlock:
    """List a block's layers, and the pool behind it, for ``recompute``."""
    if type(block) is not OSABlock:  # a subclass may do other things
        return RecomputeBlock(block, pool=pool)
    parts = [(layer, True) for layer in block.layers]
    if block.reduction is not None:
        parts.insert(0, (block.reduction, False))
    gate = block.ese.fc if type(block.ese) is ESE else None
    return RecomputeBlock(block, parts, block.aggregation, gate,
                          block.residual, pool)


def _select_stages(out_indices: Sequence[int] | None,
                   out_features: Sequence[str] | None,
                   num_stages: int) -> tuple[int, ...]:
    """Resolve and check VoVNet's two options for its outputs."""
    if out_features is not None:
        if out_indices is not None:
            raise ValueError('VoVNet: out_indices and out_features say the '
                             'same, give one of them')
        names = [f'stage{i + 2}' for i in range(num_stages)]
        for name in out_features:
            _check_choice('out_features', name, names)
        out_indices = sorted(map(names.index, out_features))
    if out_indices is None:
        out_indices = range(num_stages)
    if not isinstance(out_indices, Sequence) or not len(out_indices) or \
            list(out_indices) != sorted(set(out_indices)):
        raise ValueError(
            f'VoVNet: out_indices={out_indices!r} must be a sequence of '
            f'different, ascending stages out of {list(range(num_stages))}')
    for index in out_indices:
        _check_choice('out_indices', index, range(num_stages))
    return tuple(out_indices)


def _resolve_arch(arch: str | dict) -> Arch:
    """Look up the name of an arch, or check a dict."""
    if isinstance(arch, str):
        arch = re.sub(r'^V-(.+)-eSE$', r'V2-\1', arch)
        _check_choice('arch', arch, tuple(arch_settings))
        return arch_settings[arch]
    if not isinstance(arch, Mapping):
        raise ValueError(
            f'VoVNet: arch={arch!r} is neither a name nor a dict; the names '
            f'are {", ".join(arch_settings)}')
    for field in arch:
        _check_choice('a field of arch', field, Arch._fields)
    if 'num_blocks' not in arch:
        raise ValueError("VoVNet: arch=dict(...) needs 'num_blocks', "
                         'e.g. num_blocks=(1, 1, 2, 2)')
    spec = Arch(**arch)
    for field in ('num_blocks', 'stem_channels', 'stage_channels',
                  'aggregated_channels'):
        value = getattr(spec, field)
        if not isinstance(value, Sequence):
            raise ValueError(f'VoVNet: arch {field}={value!r} must be a '
                             'sequence of numbers, one for each stage')
        length = 3 if field == 'stem_channels' else len(spec.num_blocks)
        if len(value) != length:
            raise ValueError(
                f'VoVNet: arch {field}={tuple(value)} must have {length} '
                f'numbers, with num_blocks={tuple(spec.num_blocks)}')
    return spec


def _check_choice(name: str, value, choices) -> None:
    if value not in choices:
        raise ValueError(f'VoVNet: {name}={value!r} is not one of '
                         f'{", ".join(map(repr, choices))}')
