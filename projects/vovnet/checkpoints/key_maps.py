"""Naming schemes of VoVNet's weights in different libraries.

Names are parsed with one row of a table and written with another, so that a
translation there and back is the identity.
"""
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple


class Scheme(NamedTuple):
    """One library's names for the tensors of a VoVNet.

    The first six fields are what precedes the leaf: S is the paper's stage
    (2..5), B the block (1..), L the layer (0..) and I the stem convolution
    (0..); ``{S-2}`` is that number less two. An empty string says that the
    library has no such part.

    Attributes:
        stem: A stem convolution.
        layer: A 3x3 convolution of a block.
        reduction: The 1x1 convolution before a depthwise block's layers.
        aggregation: The 1x1 convolution behind the concatenation.
        ese: The layer of eSE.
        classifier: The linear layer of a classifier.
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
    # A module's own name holds a slash there, as in ``stem_1/conv``. Projects
    # that build on the authors' code have these names behind other prefixes.
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
# Files of 2022; `norm` since 68894b3 of gau-nernst/vision-toolbox.
SCHEMES['vision-toolbox-2022'] = SCHEMES['vision-toolbox']._replace(norm='bn')
# Group norm, as mmcv's ConvModule names it.
SCHEMES['mmengine-gn'] = SCHEMES['mmengine']._replace(
    norm='gn', pw_norm='pointwise_conv.gn')

_PARTS = Scheme._fields[:6]
_LEAVES = Scheme._fields[6:]


class TensorName(NamedTuple):
    """Name of a tensor in no library's words.

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
def _compile(scheme: Scheme) -> list[tuple[str, re.Pattern, dict[str, int]]]:
    """Compile a pattern for each part, with what to subtract by letter."""
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


def parse_name(key: str, scheme: Scheme) -> TensorName | None:
    """Parse a tensor's name; None if it is not of the scheme."""
    for part, pattern, shifts in _compile(scheme):
        if found := pattern.fullmatch(key):
            leaf = found.groupdict().get('leaf', '')
            if leaf:
                # timm has one name for both norms, told apart by is_separable.
                leaf = _LEAVES[scheme[6:].index(leaf)].removeprefix('pw_')
            place = tuple((letter, int(found[letter]) - shift)
                          for letter, shift in shifts.items())
            return TensorName(part, place, leaf, found['kind'])
    return None


def format_name(name: TensorName, scheme: Scheme, is_separable: bool = False
                ) -> str | None:
    """Format a tensor's name; None if the library has no such part.

    ``is_separable`` tells whether its convolution is depthwise separable.
    """
    template = getattr(scheme, name.part)
    leaf = 'pw_norm' if is_separable and name.leaf == 'norm' else name.leaf
    leaf = leaf and getattr(scheme, leaf)
    if not template or name.leaf and not leaf:
        return None
    place = dict(name.place)
    begin = re.sub(r'\{(\w)([+-]\d)?\}',
                   lambda m: str(place[m[1]] + int(m[2] or 0)), template)
    return f'{begin}{leaf}.{name.kind}' if leaf else f'{begin}{name.kind}'


def map_keys(keys: Iterable[str], source: str, target: str
             ) -> dict[str, str | None]:
    """Map names of one scheme to those of another.

    Names have no prefix. Those that the source's scheme does not explain are
    left out; None stands where the target has no such part.
    """
    names = {key: parse_name(key, SCHEMES[source]) for key in keys}
    separable = {name[:2] for name in names.values()
                 if name and name.leaf in ('dw', 'pw')}
    return {key: format_name(name, SCHEMES[target], name[:2] in separable)
            for key, name in names.items() if name}


def find_vovnets(keys: Iterable[str]) -> list[tuple[str, str]]:
    """Find scheme and prefix of each VoVNet among a file's names.

    A VoVNet is recognized by the norm of its first block's aggregation.
    """
    keys = sorted(keys)
    norm = TensorName('aggregation', (('S', 2), ('B', 1)), 'norm', 'weight')
    found = [(scheme, prefix) for scheme, row in SCHEMES.items()
             for prefix in _find_prefixes(keys, format_name(norm, row))]
    # Norms without weights occur in this project's files only.
    known = {prefix for _, prefix in found}
    conv = format_name(norm._replace(leaf='conv'), SCHEMES['mmengine'])
    return found + [('mmengine', prefix) for prefix
                    in _find_prefixes(keys, conv) if prefix not in known]


def _find_prefixes(keys: Iterable[str], name: str) -> list[str]:
    prefixes = [key.removesuffix(name) for key in keys if key.endswith(name)]
    # 'my_stage2.block1...' is not ours with the prefix 'my_'.
    return [prefix for prefix in prefixes
            if not prefix or prefix.endswith('.')]


def choose_own_scheme(keys: Iterable[str]) -> str:
    """Choose this project's scheme for the tensors of another library."""
    # Norms without running statistics are group norms.
    return ('mmengine' if any(k.endswith('running_mean') for k in keys)
            else 'mmengine-gn')
