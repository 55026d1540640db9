"""Reading weights of any library, and fitting them to a backbone."""
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from ..models import VoVNet, arch_settings
from ..models.backbones.vovnet import Arch, get_variant
from ..utils.errors import UserError
from .key_maps import SCHEMES, choose_own_scheme, find_vovnets, map_keys
from .known_weights import find_normalization
from .normalization import Normalization, WeightSource
from .variant import (
    OPTIONS,
    Variant,
    add_open_gates,
    are_equivalent,
    change_eps,
    find_arch_name,
    find_ese,
    have_same_structure,
    infer_arch,
    truncate_arch,
)


class Weights(NamedTuple):
    """Weights of one VoVNet and what they assume.

    Attributes:
        state_dict: Tensors in this project's names, the classifier's too.
        structure: Numbers of the architecture.
        variant: Options that they were trained with.
        scheme: Naming scheme of the file, a key of ``SCHEMES``.
        prefix: Prefix of the names in the file.
        left_out: The file's other names.
    """
    state_dict: dict[str, Tensor]
    structure: Arch
    variant: Variant
    scheme: str
    prefix: str
    left_out: list[str]

    @property
    def arch(self) -> str | dict:
        """Value of ``arch`` that builds the network."""
        return find_arch_name(self.structure, self.variant.ese)

    def __str__(self) -> str:
        options = ', '.join(
            f'{k} unknown' if v is None else f'{k}={v!r}'
            for k, v in self.variant._asdict().items()
            if k != 'normalization')
        images = self.variant.normalization
        return (f'arch={self.arch!r}, {options}; '
                + (f'trained with {images}' if images else
                   'normalization of the images unknown')
                + f'; in the names of {self.scheme}, prefix {self.prefix!r}')


@contextmanager
def prefix_errors(prefix: str) -> Iterator[None]:
    """Let the messages of user errors begin with a prefix."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{prefix}: {error}') from error


def read_weights(source: str, prefix: str | None = None,
                 map_location: Any = 'cpu') -> Weights:
    """Read a VoVNet's weights in any naming scheme.

    Args:
        source: A file, a URL, ``timm://NAME``, or whatever MMEngine loads.
        prefix: Prefix of the backbone's names; None finds it if the file
            holds one VoVNet.
        map_location: As for ``torch.load``.
    """
    file = CheckpointLoader.load_checkpoint(source, map_location, 'silent')
    return parse_checkpoint(file, source, prefix)


def parse_checkpoint(checkpoint: Any, source: str, prefix: str | None = None
                     ) -> Weights:
    """Find the VoVNet in a loaded checkpoint; see :func:`read_weights`."""
    tensors = find_state_dict(checkpoint)
    with prefix_errors(source):
        if not tensors:
            raise UserError(
                f'holds no named tensors (but: {list_content(checkpoint)}); '
                'get a file of weights (a state_dict)')
        return _convert(tensors, *_choose_vovnet(tensors, prefix), source)


# Where training programs put weights, averaged ones first. MMEngine puts the
# average under 'state_dict' and needs no entry.
CONTAINERS = ('state_dict_ema', 'model_ema', 'ema', 'state_dict', 'model',
              'model_state_dict', 'module')


def find_state_dict(checkpoint: Any) -> 'OrderedDict[str, Tensor]':
    """Find the named tensors in what a training program has saved.

    Returns:
        Those of the innermost of nested containers; empty if there are none.
    """
    found = checkpoint
    while isinstance(found, Mapping):
        inner = [found[key] for key in CONTAINERS
                 if found.get(key) and isinstance(found[key], Mapping)]
        if not inner and not select_tensors(found):
            holders = [v for v in found.values() if select_tensors(v)]
            inner = holders if len(holders) == 1 else []
        if not inner:
            break
        found = inner[0]
    return select_tensors(found)


def select_tensors(found: Any) -> 'OrderedDict[str, Tensor]':
    """Select the tensors of a mapping, with a state dict's metadata."""
    items = found.items() if isinstance(found, Mapping) else ()
    tensors = OrderedDict((str(key), value) for key, value in items
                          if isinstance(value, Tensor))
    tensors._metadata = getattr(found, '_metadata', {})
    return tensors


def list_content(checkpoint: Any) -> str:
    """List the first keys of a checkpoint, for error messages."""
    if isinstance(checkpoint, Mapping):
        return ', '.join(map(str, list(checkpoint)[:5])) or 'nothing'
    return type(checkpoint).__name__


def _choose_vovnet(tensors: Mapping[str, Tensor], prefix: str | None
                   ) -> tuple[str, str]:
    """Return scheme and prefix of the only VoVNet, or of that at a prefix."""
    found = wanted = find_vovnets(tensors)
    if prefix is not None:
        prefix = prefix.rstrip('.') and f'{prefix.rstrip(".")}.'
        wanted = [pair for pair in found if prefix in (
            pair[1], pair[1].removeprefix('module.'))]
    if len(wanted) == 1:
        return wanted[0]
    if wanted:
        raise UserError(
            f'holds {len(wanted)} VoVNets, with the prefixes '
            f'{", ".join(repr(p) for _, p in wanted)}; name one of them as '
            'prefix')
    if found:
        raise UserError(f'holds no VoVNet behind prefix={prefix!r} '
                        f'but behind {found[0][1]!r}; correct the prefix')
    like = (', it looks like a ResNet' if any(
        'layer1.0.conv1.' in key for key in tensors) else '')
    raise UserError(
        f'none of its tensors fits a VoVNet{like} (it holds '
        f'{next(iter(tensors))!r}, ...); get weights of a VoVNet, named as '
        f'one of {", ".join(SCHEMES)} names them')


def _convert(tensors: Mapping[str, Tensor], scheme: str, prefix: str,
             source: str) -> Weights:
    """Rename the tensors behind a prefix and find out what they assume."""
    below = {key[len(prefix):]: value for key, value in tensors.items()
             if key.startswith(prefix)}
    if scheme.startswith('mmengine'):
        names = {key: key for key in below}
    else:
        names = map_keys(below, scheme, choose_own_scheme(below))
    unknown = [key for key in below if key not in names
               and key.startswith(('stem', 'stage', 'features.'))]
    if unknown:
        raise UserError(
            f'has the names of {scheme}, but also {len(unknown)} tensors like '
            f'{unknown[0]!r}, which no VoVNet of this project has (deformable '
            'convolution, another attention?); their network cannot be built '
            'here')
    converted = {name: below[key] for key, name in names.items()}
    outside = _find_classifier(tensors, scheme, prefix)
    converted |= {name: tensors[key] for key, name in outside.items()}
    structure = infer_arch(converted)
    ese = find_ese(converted, structure)
    if ese is None:
        raise UserError('has eSE in some blocks only, neither in all nor in '
                        'the last of each stage; get the whole file')
    variant = (_find_saved_variant(tensors, prefix)
               or get_default_variant(scheme, prefix, ese))
    variant = variant._replace(
        ese=ese, bottleneck=any('.layers.0.0.' in key for key in converted))
    if variant.normalization is None:
        variant = variant._replace(normalization=find_normalization(
            source, scheme, prefix, find_arch_name(structure, ese), ese))
    used = {prefix + key for key in names} | outside.keys()
    return Weights(converted, structure, variant, scheme, prefix,
                   [key for key in tensors if key not in used])


def get_default_variant(scheme: str, prefix: str, ese: str) -> Variant:
    """Return the options of the libraries that use a naming scheme."""
    if scheme.startswith('mmengine'):
        return Variant()
    if scheme.startswith('vision-toolbox'):
        return Variant('pooled', 'same-width', pool='padded', eps=1e-5)
    # timm's *a networks have no identity connection, its *b have.
    residual = scheme != 'timm' or ese != 'none'
    # The prefix of maskrcnn-benchmark, whose batch norm has no eps
    # (maskrcnn_benchmark/layers/batch_norm.py).
    eps = 0. if prefix.endswith('backbone.body.') else 1e-5
    return Variant('strided', residual, pool='ceil', eps=eps)


def _find_classifier(tensors: Mapping[str, Tensor], scheme: str, prefix: str
                     ) -> dict[str, str]:
    """Name the linear layer of mmpretrain, which is beside its backbone."""
    model = prefix.removesuffix('backbone.')
    if not scheme.startswith('mmengine') or model == prefix:
        return {}
    names = {f'{model}{name}': name
             for name in ('head.fc.weight', 'head.fc.bias')}
    return names if names.keys() <= tensors.keys() else {}


def _find_saved_variant(state_dict: Mapping, prefix: str) -> Variant | None:
    metadata = getattr(state_dict, '_metadata', {})
    for name in (prefix[:-1], prefix.removeprefix('module.')[:-1]):
        if saved := metadata.get(name, {}).get('dialect'):
            return Variant.from_dict(saved)
    return None


def convert_keys(model: VoVNet, state_dict: Mapping[str, Tensor],
                 prefix: str = '', metadata: Mapping = MappingProxyType({})
                 ) -> tuple[dict[str, Tensor], Normalization | None]:
    """Convert a backbone's part of a state dict to names that it takes.

    Args:
        model: The backbone.
        state_dict: Tensors of a whole model.
        prefix: Prefix of the backbone in that model, as 'backbone.'.
        metadata: Saved with the backbone's tensors, and as 'source' the name
            of the file for error messages.

    Returns:
        A new state dict, unchanged where it holds no complete VoVNet, and the
        normalization that the weights expect, if known.
    """
    mine = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    scheme = next((scheme for scheme, where in find_vovnets(mine)
                   if where == prefix), None)
    if scheme is None:
        return dict(state_dict), None
    source = metadata.get('source', f'the state dict at {prefix!r}')
    with prefix_errors(f'VoVNet: {source}'):
        if scheme.startswith('mmengine'):
            state = {k.removeprefix(prefix): v for k, v in mine.items()}
            variant = Variant.from_dict(metadata.get('dialect', {}))
            try:
                weights = Weights(state, infer_arch(state), variant, scheme,
                                  prefix, [])
            except UserError:
                return dict(state_dict), None  # only a part of a backbone
            if variant == Variant():  # nothing is known but the names
                _select_stages(model.state_dict(), state)
                return dict(state_dict), None
        else:
            weights = _convert(mine, scheme, prefix, source)
        fitted = fit_to_model(model, weights)
    others = {k: v for k, v in state_dict.items()
              if k not in mine or k in weights.left_out}
    fitted = {prefix + k: v for k, v in fitted.items()}
    return others | fitted, weights.variant.normalization


def convert_before_loading(model: VoVNet, state_dict: dict[str, Tensor],
                           prefix: str, metadata: Mapping) -> None:
    """Convert a state dict in place before ``load_state_dict`` reads it."""
    if any(key.startswith(prefix) for key in state_dict):
        converted, expected = convert_keys(
            model, state_dict, prefix, metadata)
        state_dict.clear()
        state_dict.update(converted)
        model.weight_source = WeightSource(
            metadata.get('source', 'its state dict'), expected)


def fit_to_model(model: VoVNet, weights: Weights) -> dict[str, Tensor]:
    """Make weights fit a backbone, where that changes no output.

    eSE of last blocks only gets open gates in the others; batch norm with
    another eps gets other scales; stages that the model lacks are left out.

    Raises:
        UserError: If the backbone is built otherwise; it names the options to
            set.
    """
    state, variant = weights.state_dict, weights.variant
    num_stages = len(model.stage_names)
    arch = truncate_arch(weights.structure, num_stages)
    have = Variant.from_dict(get_variant(model))
    given, wanted, incomplete = have, {}, ';'
    if not have_same_structure(arch, truncate_arch(model.spec, num_stages)):
        wanted['arch'] = weights.arch
        if isinstance(weights.arch, str):
            spec = arch_settings[weights.arch]
        else:
            spec = Arch((1, ))
            incomplete = ', or not whole; get the whole file, or'
        given = Variant(spec.stem, spec.residual, spec.ese, 'ceil', False)
    for option in OPTIONS:
        value = getattr(variant, option)
        if value is not None and not are_equivalent(
                option, value, getattr(given, option), arch):
            wanted[option] = value
    if wanted.get('ese') == 'last' and given.ese == 'all':
        del wanted['ese']
        state = add_open_gates(state, weights.structure)
    if wanted:
        has = dict(model.variant, arch=model.arch)
        raise UserError(
            f'is of another network{incomplete} set '
            f'{_format_options(wanted)} in the backbone, which has '
            f'{_format_options({k: has[k] for k in wanted})}')
    if have.eps is not None and variant.eps not in (None, have.eps):
        state = change_eps(state, variant.eps, have.eps)
    return _select_stages(model.state_dict(), state)


def _select_stages(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]
                   ) -> dict[str, Tensor]:
    """Leave out the stages that a backbone does not have, and nothing else."""
    parts = {key.split('.')[0] for key in own}
    fitting = {key: value for key, value in weights.items()
               if not key.startswith('stage') or key.split('.')[0] in parts}
    extra = sorted(key for key in fitting if key not in own
                   and key.split('.')[0] in parts
                   and not key.endswith('num_batches_tracked'))
    if extra:
        raise UserError(
            f'has {len(extra)} tensors for which the backbone has no place, '
            f'such as {extra[0]}; build it as it was trained (norm_cfg?), or '
            'get weights of this network')
    return fitting


def _format_options(values: Mapping[str, Any]) -> str:
    return ', '.join(f'{k}={v!r}' for k, v in values.items())
