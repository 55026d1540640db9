"""The naming schemes in which VoVNet's weights exist.

Sources, read for their names only:
- authors': stigma0617/VoVNet.pytorch@039d9dc,
  vov-net/VoVNet-Detectron@0176f70, youngwanLEE/vovnet-detectron2@b81c813,
  centermask2@6adabd6 and mmdet3d's VoVNet/VoVNetCP are alike below their
  prefix; a module is called ``stem_1/conv``, so that its name holds a slash.
- timm: huggingface/pytorch-image-models@aa4b585, ``timm/models/vovnet.py``.
- pytorchcv 0.0.74, ``models/vovnet.py`` (osmr/imgclsmob).
- vision-toolbox: gau-nernst/vision-toolbox, ``bn`` at 9766357 (files of 2022),
  ``norm`` since 68894b3 (files of 2023).

A scheme is a row of a table. Names are parsed with one row and written with
another, so that a translation there and back is the identity.
"""
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple


class Scheme(NamedTuple):
    """How one library names the tensors of a VoVNet.

    The first six fields are what stands before the leaf. In them S is the
    paper's stage (2..5), B the block (1..), L the layer (0..) and I the stem
    convolution (0..); ``{S-2}`` is that number less two. An empty string says
    that the library has no such part.

    Attributes:
        stem: A stem convolution.
        layer: A 3x3 convolution of a block.
        reduction: The 1x1 convolution before a depthwise block's layers.
        aggregation: The 1x1 convolution behind the concatenation.
        ese: The layer of eSE.
        classifier: The linear layer of a classification network.
        conv: Leaf of a convolution.
        norm: Leaf of its norm.
        dw: Leaf of a depthwise convolution.
        pw: Leaf of the pointwise one that follows.
        pw_norm: Leaf of the norm of those two.
    """
    stem: str
    layer: str
    reduction: str
    aggregation: str
    ese: str
    classifier: str
    conv: str = 'conv'
    norm: str = 'bn'
    dw: str = ''
    pw: str = ''
    pw_norm: str = ''


SCHEMES = {
    'mmengine': Scheme(
        'stem.{I}.', 'stage{S}.block{B}.layers.{L}.',
        'stage{S}.block{B}.reduction.', 'stage{S}.block{B}.aggregation.',
        'stage{S}.block{B}.ese.fc.', 'head.fc.', dw='depthwise_conv.conv',
        pw='pointwise_conv.conv', pw_norm='pointwise_conv.bn'),
    'authors': Scheme(
        'stem.stem_{I+1}/',
        'stage{S}.OSA{S}_{B}.layers.{L}.OSA{S}_{B}_{L}/',
        'stage{S}.OSA{S}_{B}.conv_reduction.OSA{S}_{B}_reduction_0/',
        'stage{S}.OSA{S}_{B}.concat.OSA{S}_{B}_concat/',
        'stage{S}.OSA{S}_{B}.ese.fc.', 'classifier.', norm='norm',
        dw='dw_conv3x3', pw='pw_conv1x1', pw_norm='pw_norm'),
    'timm': Scheme(
        'stem.{I}.', 'stages.{S-2}.blocks.{B-1}.conv_mid.{L}.',
        'stages.{S-2}.blocks.{B-1}.conv_reduction.',
        'stages.{S-2}.blocks.{B-1}.conv_concat.',
        'stages.{S-2}.blocks.{B-1}.attn.fc.', 'head.fc.', dw='conv_dw',
        pw='conv_pw', pw_norm='bn'),
    'pytorchcv': Scheme(
        'features.init_block.conv{I+1}.',
        'features.stage{S-1}.unit{B}.branches.branch{L+1}.', '',
        'features.stage{S-1}.unit{B}.concat_conv.', '', 'output.'),
    'vision-toolbox': Scheme(
        'stem.{I}.', 'stages.{S-2}.module_{B-1}.convs.{L}.', '',
        'stages.{S-2}.module_{B-1}.out_conv.',
        'stages.{S-2}.module_{B-1}.ese.linear.', '', norm='norm'),
}
SCHEMES['vision-toolbox-2022'] = SCHEMES['vision-toolbox']._replace(norm='bn')
# Group norm, as mmcv's ConvModule names it.
SCHEMES['mmengine-gn'] = SCHEMES['mmengine']._replace(
    norm='gn', pw_norm='pointwise_conv.gn')

_PARTS = Scheme._fields[:6]
_LEAVES = Scheme._fields[6:]


class Name(NamedTuple):
    """What a tensor is, whatever it is called.

    Attributes:
        part: One of the parts of :class:`Scheme`.
        place: Its numbers, as (letter, number) pairs.
        leaf: 'conv', 'norm', 'dw', 'pw', or '' where the part has one layer.
        kind: 'weight', 'bias', 'running_mean', ...
    """
    part: str
    place: tuple[tuple[str, int], ...]
    leaf: str
    kind: str


@lru_cache
def _patterns(scheme: Scheme) -> list[tuple[str, re.Pattern, dict]]:
    """For each part, an expression for its names and what to subtract."""
    out = []
    for part, template in zip(_PARTS, scheme):
        if not template:
            continue
        shifts, expression = {}, ''
        for text, letter, shift in re.findall(
                r'([^{]*)(?:\{(\w)([+-]\d)?\})?', template):
            expression += re.escape(text)
            if letter:
                expression += (f'(?P={letter})' if letter in shifts else
                               rf'(?P<{letter}>\d+)')
                shifts[letter] = int(shift or 0)
        if part not in ('ese', 'classifier'):
            leaves = filter(None, scheme[6:])
            expression += f'(?P<leaf>{"|".join(map(re.escape, leaves))})\\.'
        out.append((part, re.compile(expression + r'(?P<kind>\w+)'), shifts))
    return out


def parse(key: str, scheme: Scheme) -> Name | None:
    """Understand a tensor's name, or return None."""
    for part, pattern, shifts in _patterns(scheme):
        if found := pattern.fullmatch(key):
            leaf = found['leaf'] if 'leaf' in pattern.groupindex else ''
            if leaf:
                # timm calls both norms alike, so they are told apart later.
                leaf = _LEAVES[scheme[6:].index(leaf)].removeprefix('pw_')
            return Name(part, tuple((letter, int(found[letter]) - shift)
                                    for letter, shift in shifts.items()),
                        leaf, found['kind'])
    return None


def write(name: Name, scheme: Scheme, separable: bool) -> str | None:
    """Name a tensor, or return None if the library has no such part.

    Args:
        name: What the tensor is.
        scheme: In whose names.
        separable: Whether its convolution is depthwise separable.
    """
    template = getattr(scheme, name.part)
    leaf = 'pw_norm' if separable and name.leaf == 'norm' else name.leaf
    leaf = leaf and getattr(scheme, leaf)
    if not template or name.leaf and not leaf:
        return None
    place = dict(name.place)
    begin = re.sub(r'\{(\w)([+-]\d)?\}', lambda m: str(
        place[m[1]] + int(m[2] or 0)), template)
    return f'{begin}{leaf}.{name.kind}' if leaf else f'{begin}{name.kind}'


def translate(keys: Iterable[str], source: str, target: str
              ) -> dict[str, str | None]:
    """Names of one scheme in another.

    Args:
        keys: Tensors' names without a prefix.
        source: Their scheme, a key of :data:`SCHEMES`.
        target: The scheme wanted.

    Returns:
        dict[str, str | None]: For each name that the source's scheme
        explains, the target's; None where the target has no such part.
    """
    names = {key: parse(key, SCHEMES[source]) for key in keys}
    separable = {name[:2] for name in names.values()
                 if name and name.leaf in ('dw', 'pw')}
    return {key: write(name, SCHEMES[target], name[:2] in separable)
            for key, name in names.items() if name}


def detect(keys: Iterable[str]) -> list[tuple[str, str]]:
    """Find the VoVNets among a file's tensors.

    Args:
        keys: All names in the file.

    Returns:
        list[tuple[str, str]]: The scheme and the prefix of each. A VoVNet is
        known by the aggregation of its first block, and its norm.
    """
    keys = set(keys)
    found = []
    for scheme, row in SCHEMES.items():
        first = Name('aggregation', (('S', 2), ('B', 1)), 'norm', 'weight')
        sign = write(first, row, separable=False)
        found += [(scheme, key.removesuffix(sign)) for key in sorted(keys)
                  if key.endswith(sign)]
    # Without affine norms there is still a convolution. Only own files can be
    # so.
    sign = write(first._replace(leaf='conv'), SCHEMES['mmengine'],
                 separable=False)
    known = {prefix for _, prefix in found}
    found += [('mmengine', key.removesuffix(sign)) for key in sorted(keys)
              if key.endswith(sign) and key.removesuffix(sign) not in known]
    # 'my_stage2.block1...' is not ours with the prefix 'my_'.
    return [(scheme, prefix) for scheme, prefix in found
            if not prefix or prefix.endswith('.')]


def own_scheme(keys: Iterable[str]) -> str:
    """This project's scheme for tensors that are named ``keys`` elsewhere.

    Without running statistics the norms are group norms.
    """
    return ('mmengine' if any(k.endswith('running_mean') for k in keys)
            else 'mmengine-gn')
