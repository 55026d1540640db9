"""Checkpoints as data: reading them runs no code.

Own work on ``torch.load(weights_only=True)``. What MMEngine puts into a
checkpoint besides tensors was read in mmengine 0.10.7
(``runner/runner.py:save_checkpoint``, ``logging/history_buffer.py``) and
confirmed by ``torch.serialization.get_unsafe_globals_in_checkpoint``.

Also read: safetensors, and a checkpoint in a zip archive (pytorchcv's).

Importing this module makes MMEngine load through it, whatever asks
(``Runner``, ``init_cfg=dict(type='Pretrained')``, inferencers) and whatever
the scheme:

- local files by ``CheckpointLoader.register_scheme``;
- ``http(s)://``, ``torchvision://``, ``open-mmlab://``, ``mmcls://`` by the
  ``load_url`` that all of them call. torch's own defaults to
  ``weights_only=False``, so that a link could run code, and keeps what a
  broken connection has left of a file.

``weights_only`` is always given explicitly, which the environment variable
``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` cannot override, and nothing falls back to
unpickling.
"""
import errno
import json
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from ..utils.errors import UserError
from .download import fetch, not_weights, unwrapped
from .metafiles import checksum_of
from .pickle_scan import examine


class _History(HistoryBuffer):
    """Stands in for ``HistoryBuffer`` while it is read.

    The pickled state lists methods, which MMEngine would put into a table
    shared by the class. Only the numbers are taken.
    """

    def __setstate__(self, state: dict) -> None:
        self.__init__(state['_log_history'], state['_count_history'],
                      state['max_length'])
        self.__class__ = HistoryBuffer


def _history_method(owner: Any, name: str) -> None:
    """Stands in for ``builtins.getattr``, which it does not call.

    A pickled ``HistoryBuffer`` looks up its own methods (min, max, current,
    mean), which :class:`_History` drops: None is as good.
    """
    if owner is not _History:
        raise UnpicklingError('Unsupported global: GLOBAL builtins.getattr '
                              'was not an allowed global by default.')


def _numpy_globals() -> list:
    """What arrays and scalars of numbers are made of."""
    rebuild = {'_reconstruct': np.zeros(0).__reduce__()[0],
               'scalar': np.float64(0).__reduce__()[0]}
    # numpy 1 wrote "core" into the file, numpy 2 writes "_core".
    functions = [(function, f'numpy.{core}.multiarray.{name}')
                 for name, function in rebuild.items()
                 for core in ('core', '_core')]
    numbers = '?' + np.typecodes['AllInteger'] + 'efd'
    return [np.ndarray, np.dtype, *functions,
            *{type(np.dtype(code)) for code in numbers}]


SAFE_GLOBALS = [
    (_History, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (_history_method, 'builtins.getattr'),
    *_numpy_globals(),
]
"""All that a checkpoint may name beyond torch's own list of safe types."""
# getattr is safe only as it is read here, see above.
_SAFE_NAMES = {entry[1] if isinstance(entry, tuple) else
               f'{entry.__module__}.{entry.__qualname__}'
               for entry in SAFE_GLOBALS} - {'builtins.getattr'}


def load_file(path: str | os.PathLike, map_location: Any = None,
              name: str = '') -> Any:
    """Read a checkpoint without running anything that is in it.

    Args:
        path: A file written by ``torch.save``, also within a zip archive, or
            a safetensors file (known by its content).
        map_location: As for ``torch.load``; None means the CPU.
        name: Where the file came from, for the message of an error.

    Returns:
        What was saved: for a checkpoint of MMEngine a dict with ``meta`` and
        ``state_dict`` and, where training can go on from it,
        ``message_hub``, ``optimizer`` and ``param_schedulers``.

    Raises:
        UserError: If the file is missing, empty, cut short, not a checkpoint
            at all, or asks for objects that could run code.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise UserError(f'checkpoint {path}: no such file; check the path')
    with _plainly(path, name or path):
        if _is_safetensors(path):
            return _load_safetensors(path, map_location or 'cpu')
        return torch.load(unwrapped(path), weights_only=True,
                          map_location=map_location or 'cpu')


def _is_safetensors(path: str) -> bool:
    """Whether a file begins with the length of a JSON header, and one."""
    with open(path, 'rb') as file:
        head = file.read(9)
    return head[8:] == b'{' and \
        int.from_bytes(head[:8], 'little') < os.path.getsize(path)


NOTE = 'mmengine'  # in a safetensors file's metadata, what else was saved


def _load_safetensors(path: str, device: Any) -> dict:
    import safetensors.torch
    tensors = safetensors.torch.load_file(path, device)
    with safetensors.safe_open(path, 'pt') as file:
        note = (file.metadata() or {}).get(NOTE)
    if note is None:
        return tensors
    state = OrderedDict(tensors)
    meta, state._metadata = json.loads(note)
    return dict(meta=meta, state_dict=state)


# What torch says besides refusing a file, which is enough.
_NOTICES = ('Detected pickle protocol', '.*looks like a TorchScript archive')


@contextmanager
def _plainly(path: str, name: str) -> Iterator[None]:
    """Allow what is safe; whatever else the file asks for is refused."""
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS), \
                warnings.catch_warnings():
            for notice in _NOTICES:
                warnings.filterwarnings('ignore', notice, UserWarning)
            yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        # torch seeks before the start of a short file that is cut.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = _reason(path, str(error))
        raise UserError(f'checkpoint {name}: {reason}') from error


def _reason(path: str, message: str) -> str:
    """Why a file could not be read, and what to do."""
    if reason := not_weights(path):
        return reason
    if 'TorchScript' in message or 'unrecognized function' in message:
        return ('refused, it holds a program, not only weights (nothing was '
                'run); get a file that holds only weights (a state_dict)')
    found = re.search(r'GLOBAL (\S+?)(?= was not| whose module)', message)
    protocol, named = examine(path) or (0, [])
    unsafe = [found[1]] if found else [
        name for name in named if name not in _SAFE_NAMES]
    if unsafe:
        return (f'refused, it asks for {unsafe[0]}, which could run code '
                '(nothing was run); get a file that holds only weights '
                '(a state_dict)')
    if protocol > 3:
        return (f'is a pickle of protocol {protocol}, which torch does not '
                'read as data only; if you trust it, load it in Python and '
                'save it with torch.save(..., pickle_protocol=2)')
    return ('is cut short, damaged or not a PyTorch checkpoint '
            f'({os.path.getsize(path)} bytes); copy or download it again')


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """MMEngine's loader of local files, by :func:`load_file`."""
    return load_file(filename, map_location)


def _load_url(url: str, model_dir: str | None = None, map_location: Any = None,
              progress: bool = True) -> Any:
    """``torch.hub.load_state_dict_from_url``, but whole and only weights.

    ``URL#sha256=DIGITS`` gives a checksum; those of published files and of
    metafiles are known.
    """
    url, _, checksum = url.partition('#sha256=')
    path = fetch(url, checksum or checksum_of(url), model_dir, progress)
    return load_download(path, url, map_location)


def load_download(path: str, url: str, map_location: Any = None) -> Any:
    """Read a file that was downloaded, and remove it if it cannot be read.

    Args:
        path: Where it is.
        url: Where it came from.
        map_location: As for :func:`load_file`.

    Returns:
        As :func:`load_file` does.

    Raises:
        UserError: As :func:`load_file` does.
    """
    try:
        return load_file(path, map_location, url)
    except UserError as error:
        os.remove(path)
        raise UserError(f'{error}; it has been removed from the cache'
                        ) from error


mmengine_checkpoint.load_url = _load_url


def _in_one_line(load: Callable) -> Callable:
    """Let MMEngine's loader of a scheme refuse as the others do."""

    def load_or_refuse(filename: str, *args, **kwargs) -> Any:
        try:
            return load(filename, *args, **kwargs)
        except (KeyError, ImportError) as error:
            reason = ('MMEngine knows no weights of this name'
                      if isinstance(error, KeyError) else
                      str(error).splitlines()[0])
            raise UserError(f'checkpoint {filename}: {reason}; give a path, '
                            'an address or timm://NAME') from error

    return load_or_refuse


for _prefix, _load in CheckpointLoader._schemes.items():
    if _load.__module__ == mmengine_checkpoint.__name__:
        CheckpointLoader._schemes[_prefix] = _in_one_line(_load)
