"""Any published VoVNet file, read into this project's names.

Own work; see :mod:`.schemes` for the names and :mod:`.dialect` for the rest.
"""
from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..models import VoVNet
from ..utils.errors import UserError
from . import variant as d
from .key_maps import SCHEMES, detect, own_scheme, translate
from .known_weights import find_normalization, get_default_normalization
from .normalization import wanted_images
from .variant import Dialect, Normalization


class Weights(NamedTuple):
    """The weights of one VoVNet and what they assume.

    Attributes:
        state_dict: Tensors in this project's names, the classifier's too.
        arch: The value of ``arch`` that they are for.
        dialect: The options that they are for.
        scheme: The naming scheme of the file, a key of
            :data:`~vovnet.checkpoints.key_maps.SCHEMES`.
        prefix: What stood before the names in the file.
        left_out: The file's other names.
    """
    state_dict: dict[str, Tensor]
    arch: str | dict
    dialect: Dialect
    scheme: str
    prefix: str
    left_out: list[str]

    def __str__(self) -> str:
        options = ', '.join(
            f'{k} unknown' if v is None else f'{k}={v!r}'
            for k, v in self.dialect._asdict().items()
            if k != 'normalization')
        images = self.dialect.normalization
        return (f'arch={self.arch!r}, {options}; '
                + (f'trained with {images}' if images else
                   'normalisation of the images unknown')
                + f'; in the names of {self.scheme}, prefix {self.prefix!r}')


def read_weights(source: str, prefix: str | None = None,
                 map_location: Any = 'cpu') -> Weights:
    """Read a VoVNet's weights from anywhere, in any naming scheme.

    Args:
        source: A file, an address, ``timm://NAME``, or whatever else MMEngine
            loads.
        prefix: What stands before the backbone's names; found by itself if
            the file holds one VoVNet.
        map_location: As for ``torch.load``.

    Returns:
        Weights: The weights and what they assume.

    Raises:
        UserError: If the file cannot be read or holds no VoVNet.
    """
    file = CheckpointLoader.load_checkpoint(source, map_location, 'silent')
    return interpret(file, source, prefix)


def interpret(checkpoint: Any, source: str, prefix: str | None = None
              ) -> Weights:
    """Find the VoVNet in a loaded checkpoint; see :func:`read_weights`."""
    tensors = unwrap(checkpoint, source)
    scheme, prefix = _find(tensors, source, prefix)
    below = {key[len(prefix):]: value for key, value in tensors.items()
             if key.startswith(prefix)}
    names = translate(below, scheme, scheme if scheme.startswith('mmengine')
                      else own_scheme(below))
    if scheme.startswith('mmengine'):
        # Also what VoVNet's options add to the published networks.
        names |= {key: key for key in below if key not in names}
    unknown = [key for key in below if key not in names
               and key.startswith(('stem', 'stage', 'features.'))]
    if unknown:
        raise UserError(
            f'{source}: has the names of {scheme}, but also {len(unknown)} '
            f'tensors like {unknown[0]!r}, which no VoVNet of this project '
            'has (deformable convolution, another attention?); their network '
            'cannot be built here')
    own = {names[key]: value for key, value in below.items() if key in names}
    outside = _classifier(tensors, scheme, prefix)
    own |= {name: tensors[key] for key, name in outside.items()}
    try:
        arch = d.structure(own)
    except UserError as error:
        raise UserError(f'{source}: holds {error}') from error
    saved = _saved_dialect(innermost(checkpoint), prefix)
    spoken = Dialect.of(saved) if saved else _dialect(
        scheme, prefix, own, arch)
    ese = d.ese_of(own, arch)
    if ese is None:
        raise UserError(f'{source}: has eSE in some blocks only, neither in '
                        'all nor in the last of each stage; get the whole '
                        'file')
    spoken = spoken._replace(
        ese=ese, bottleneck=any('.layers.0.0.' in key for key in own))
    name = d.arch_name(arch, ese)
    if spoken.normalization is None:
        spoken = spoken._replace(normalization=find_normalization(
            source, scheme, prefix, name, ese))
    left_out = [key for key in tensors if key not in outside and (
        not key.startswith(prefix) or key[len(prefix):] not in names)]
    return Weights(own, name, spoken, scheme, prefix, left_out)


# Where training programs put weights, the averaged ones first. MMEngine, when
# it averages, has the average under 'state_dict' and needs no entry.
CONTAINERS = ('state_dict_ema', 'model_ema', 'ema', 'state_dict', 'model',
              'model_state_dict', 'module')


def unwrap(checkpoint: Any, source: str) -> dict[str, Tensor]:
    """Find the named tensors in what a training program has saved.

    Args:
        checkpoint: What was loaded.
        source: Where from, for the message of an error.

    Returns:
        dict[str, Tensor]: The innermost of nested containers; solver state
        and whatever else is beside them is left out.

    Raises:
        UserError: If there are none.
    """
    found = innermost(checkpoint)
    tensors = named_tensors(found)
    if not tensors:
        holds = (', '.join(map(str, list(found)[:5])) or 'nothing'
                 if isinstance(found, Mapping) else type(found).__name__)
        raise UserError(f'{source}: holds no named tensors (but: {holds}); '
                        'get a file of weights (a state_dict)')
    return tensors


def innermost(found: Any) -> Any:
    """What is in nested containers: those of known names, or the only one
    that holds tensors."""
    while isinstance(found, Mapping):
        inner = [found[key] for key in CONTAINERS
                 if found.get(key) and isinstance(found[key], Mapping)]
        if not (inner or named_tensors(found)):
            inner = [value for value in found.values()
                     if named_tensors(value)]
            inner = inner if len(inner) == 1 else []
        if not inner:
            break
        found = inner[0]
    return found


def named_tensors(found: Any) -> dict[str, Tensor]:
    """The tensors of a mapping by name; none of anything else."""
    return {str(key): value for key, value in found.items()
            if isinstance(value, Tensor)} if isinstance(
                found, Mapping) else {}


def _find(tensors: Mapping[str, Tensor], source: str, prefix: str | None
          ) -> tuple[str, str]:
    """Scheme and prefix of the one VoVNet that is meant."""
    found = detect(tensors)
    if prefix is not None:
        prefix = prefix.rstrip('.') and f'{prefix.rstrip(".")}.'
        wanted = [pair for pair in found if prefix in (
            pair[1], pair[1].removeprefix('module.'))]
    else:
        wanted = found
    if len(wanted) == 1:
        return wanted[0]
    if wanted:
        raise UserError(
            f'{source}: holds {len(wanted)} VoVNets, with the prefixes '
            f'{", ".join(repr(p) for _, p in wanted)}; name one of them as '
            'prefix')
    example = next(iter(tensors))
    if found:
        raise UserError(f'{source}: holds no VoVNet behind prefix={prefix!r} '
                        f'but behind {found[0][1]!r}; correct the prefix')
    like = (', it looks like a ResNet' if any(
        'layer1.0.conv1.' in key for key in tensors) else '')
    raise UserError(
        f'{source}: none of its tensors fits a VoVNet{like} (it holds '
        f'{example!r}, ...); get weights of a VoVNet, named as one of '
        f'{", ".join(SCHEMES)} names them')


def _dialect(scheme: str, prefix: str, own: Mapping[str, Tensor],
             arch: d.Arch) -> Dialect:
    """What users of a scheme have in common."""
    if scheme.startswith('mmengine'):
        return Dialect()
    if scheme.startswith('vision-toolbox'):
        return Dialect('pooled', 'same-width', pool='padded', eps=1e-5)
    # timm's *a networks have no identity connection, its *b have.
    identity = scheme != 'timm' or d.ese_of(own, arch) != 'none'
    # maskrcnn-benchmark calls the backbone so, and its batch norm has no eps.
    eps = 0. if prefix.endswith('backbone.body.') else 1e-5
    return Dialect('strided', identity, pool='ceil', eps=eps)


def _classifier(tensors: Mapping[str, Tensor], scheme: str, prefix: str
                ) -> dict[str, str]:
    """Own names of the linear layer of mmpretrain, outside its backbone."""
    model = prefix.removesuffix('backbone.')
    if not scheme.startswith('mmengine') or model == prefix:
        return {}
    names = {f'{model}{name}': name
             for name in ('head.fc.weight', 'head.fc.bias')}
    return names if names.keys() <= tensors.keys() else {}


def _saved_dialect(state_dict: Mapping, prefix: str) -> dict | None:
    """What VoVNet has written beside its tensors."""
    metadata = getattr(state_dict, '_metadata', {})
    names = prefix[:-1], prefix.removeprefix('module.')[:-1]
    found = [metadata.get(name, {}).get('dialect') for name in names]
    return next(filter(None, found), None)


def adapt(model: VoVNet, state_dict: Mapping[str, Tensor], prefix: str = '',
          metadata: Mapping = MappingProxyType({})
          ) -> tuple[dict[str, Tensor], Normalization | None]:
    """Let the state dict of a whole model know other names of a backbone.

    Args:
        model: The backbone that is to be filled.
        state_dict: Tensors by name; not changed.
        prefix: Where in the model the backbone is, as 'backbone.'.
        metadata: What VoVNet has saved beside its tensors, and as 'source'
            what to call them in the message of an error.

    Returns:
        tuple: The state dict with names and values as the backbone wants
        them, and how these weights want the images, if that is known. What
        cannot be explained stays as it is.

    Raises:
        UserError: If the weights are of a network built otherwise.
    """
    mine = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    found = [scheme for scheme, where in detect(mine) if where == prefix]
    source = metadata.get('source', f'the state dict at {prefix!r}')
    spoken = Dialect.of(metadata.get('dialect', {}))
    if not found:
        return dict(state_dict), None
    if not found[0].startswith('mmengine'):
        weights = interpret(mine, source, prefix)
        own, spoken = weights.state_dict, weights.dialect
        for key in weights.left_out:
            del mine[key]
    else:
        own = {k.removeprefix(prefix): v for k, v in mine.items()}
        try:
            d.structure(own)
        except UserError:
            return dict(state_dict), None  # a part
        if spoken == Dialect():  # nothing is known but the names
            _for_stages(model.state_dict(), own, source)
            return dict(state_dict), None
    ready = fit(model, own, spoken, source)
    others = {k: v for k, v in state_dict.items() if k not in mine}
    return others | {prefix + k: v for k, v in ready.items()}, \
        spoken.normalization


def fit(model: VoVNet, weights: Mapping[str, Tensor], spoken: Dialect,
        source: str) -> dict[str, Tensor]:
    """Make weights fit a backbone, where that changes no output.

    What can be absorbed exactly is: timm's eSE, which only last blocks have,
    gets open gates in the others; batch norm with another eps gets other
    scales.

    Args:
        model: The backbone.
        weights: Tensors in this project's names.
        spoken: The options they are for.
        source: Where they come from, for the message of an error.

    Returns:
        dict[str, Tensor]: The tensors of the stages that the model has.

    Raises:
        UserError: If the backbone is built otherwise. The message has the
            options to set.
    """
    own = model.state_dict()
    have = d.structure(own)
    whole = d.structure(weights)
    arch = d.cut(whole, len(have.num_blocks))
    given = mine = spoken_by(model)
    wanted, whole_file = {}, ''
    if not d.same_structure(arch, have):
        name = d.arch_name(whole, spoken.ese)
        wanted['arch'] = name
        if not isinstance(name, str):
            whole_file = ', or not whole; get the whole file, or'
        spec = d.arch_settings.get(name) if isinstance(name, str) else d.Arch(
            (1, ))
        given = Dialect(spec.stem, spec.residual, spec.ese, 'ceil', False)
    for option in d.OPTIONS:
        value = getattr(spoken, option)
        if value is not None and not d.same_option(
                option, value, getattr(given, option), arch):
            wanted[option] = value
    if wanted.get('ese') == 'last' and given.ese == 'all':
        del wanted['ese']
        weights = d.add_open_gates(weights, whole)
    if wanted:
        has = dict(model.dialect, arch=model.arch)
        raise UserError(
            f'VoVNet: {source}: is of another network{whole_file or ";"} set '
            f'{_options(wanted)} in the backbone, which has '
            f'{_options({k: has[k] for k in wanted})}')
    if mine.eps is not None and spoken.eps not in (None, mine.eps):
        try:
            weights = d.change_eps(weights, spoken.eps, mine.eps)
        except UserError as error:
            raise UserError(f'VoVNet: {source}: {error}') from error
    return _for_stages(own, weights, source)


def _for_stages(own: Mapping[str, Tensor], weights: Mapping[str, Tensor],
                source: str) -> dict[str, Tensor]:
    """Leave out the stages that a backbone does not have, and nothing else."""
    parts = {key.split('.')[0] for key in own}
    fitting = {key: value for key, value in weights.items()
               if not key.startswith('stage') or key.split('.')[0] in parts}
    extra = sorted(key for key in fitting if key not in own
                   and key.split('.')[0] in parts
                   and not key.endswith('num_batches_tracked'))
    if extra:
        raise UserError(
            f'VoVNet: {source}: has {len(extra)} tensors for which the '
            f'backbone has no place, such as {extra[0]}; build it as it was '
            'trained (norm_cfg?), or get weights of this network')
    return fitting


def spoken_by(model: VoVNet) -> Dialect:
    """What the weights of a backbone assume.

    Args:
        model: The backbone.

    Returns:
        Dialect: Its options, the eps of its batch norms, and how it wants
        images to be normalised, where weights or a training have told.
    """
    eps = next((m.eps for m in model.modules()
                if isinstance(m, _BatchNorm)), None)
    return Dialect.of(model.dialect)._replace(
        eps=eps, normalization=wanted_images(model))


def _options(values: Mapping[str, Any]) -> str:
    return ', '.join(f'{k}={v!r}' for k, v in values.items())


def export_weights(weights: Weights, scheme: str, prefix: str = '',
              images: str | None = None) -> 'OrderedDict[str, Tensor]':
    """Name weights as another library does.

    Args:
        weights: What :func:`read_weights` returned.
        scheme: A key of :data:`~vovnet.checkpoints.key_maps.SCHEMES`.
        prefix: Put before each name.
        images: Where those who use such files normalise images otherwise
            than the weights want: 'fold' the difference into the stem, or
            'keep' the weights as they are.

    Returns:
        OrderedDict[str, Tensor]: A state dict. In this project's names it
        carries the dialect along.

    Raises:
        UserError: If that library's network computes something else, has no
            name for a tensor, or takes other images and nothing says what to
            do about it.
    """
    own, spoken = weights.state_dict, weights.dialect
    given = get_default_normalization(scheme, prefix, weights.arch, spoken.ese)
    if images == 'fold' and not (spoken.normalization and given):
        who = 'users of these names' if spoken.normalization else 'the weights'
        raise UserError('--images fold: nothing says which images '
                        f'{who} want; leave it out')
    source = own_scheme(own)
    if scheme == 'mmengine':
        state = OrderedDict((prefix + k, v) for k, v in own.items())
        state._metadata = {prefix[:-1]: dict(
            version=1, dialect=weights.dialect.to_dict())}
        return state
    arch = d.structure(own)
    theirs = _dialect(scheme, prefix, own, arch)
    if spoken.stem is None:
        raise UserError(
            'nothing says with which stem, residual and pool these weights '
            'were trained, so they cannot be given to another library; load '
            'them into their backbone and save its state dict')
    if scheme.startswith(('authors', 'vision-toolbox')) and (
            spoken.ese == 'last' or prefix and spoken.ese == 'none'):
        # Their networks have eSE in all blocks; V1's, which have none, are
        # not among those that detectron2's and mmdet3d's users build.
        own = d.add_open_gates(own, arch)
    if scheme == 'timm' and spoken.ese == 'all':
        own = d.without_open_gates(own, arch)
        if d.ese_of(own, arch) != 'last' and not d.same_option(
                'ese', 'all', 'last', arch):
            raise UserError(
                'timm has eSE in the last block of each stage only, these '
                'weights have it in all; no file in its names can say that')
    for option in ('stem', 'residual', 'pool'):
        mine, other = getattr(spoken, option), getattr(theirs, option)
        if not d.same_option(option, mine, other, arch):
            raise UserError(
                f"the network of {scheme} has {option}={other!r}, these "
                f'weights are for {option}={mine!r}; no file in its names can '
                'say that')
    if spoken.eps is not None and spoken.eps != theirs.eps:
        own = d.change_eps(own, spoken.eps, theirs.eps)
    own = _for_images(own, spoken.normalization, given, images)
    names = translate(own, source, scheme)
    if unnamed := [k for k in own if not names.get(k)]:
        raise UserError(f'{scheme} has no name for {len(unnamed)} of the '
                        f'tensors, such as {unnamed[0]!r}')
    return OrderedDict((prefix + names[k], v) for k, v in own.items())


def _for_images(own: Mapping[str, Tensor], wanted: Normalization | None,
                given: Normalization | None, images: str | None
                ) -> Mapping[str, Tensor]:
    """Weights for the images that another library's users give them."""
    if images == 'keep' or not (wanted and given) or wanted.agrees(given):
        return own
    if images == 'fold':
        return d.fold_normalization(own, wanted, given)
    fold = ('--images fold, which puts the difference into the stem, or '
            if d.same_means(wanted, given) else '')
    raise UserError(
        f'the weights want {wanted}, but files in these names are taken for '
        f'{given}; say {fold}--images keep, and normalise as the weights want')
