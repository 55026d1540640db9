"""Checkpoints as data: reading them runs no code.

Reads what ``torch.save`` and MMEngine write (0.10.7,
``runner/runner.py:save_checkpoint``), also within a zip archive as pytorchcv
publishes weights, and safetensors. :mod:`vovnet.patches` makes MMEngine load
through this module.

``weights_only`` is always given explicitly, so that the environment variable
``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` cannot override it, and nothing falls back
to unpickling.
"""
import errno
import json
import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ..utils.errors import UserError
from .download import (
    fetch,
    find_foreign_content,
    find_mismatch,
    unzip_checkpoint,
)
from .metafiles import find_checksum
from .pickle_scan import scan_pickle


class _History(HistoryBuffer):
    """A stand-in for ``HistoryBuffer`` that takes only its numbers.

    The pickled state also lists methods, which MMEngine would put into a
    table shared by all histories.
    """

    def __setstate__(self, state: dict) -> None:
        self.__init__(state['_log_history'], state['_count_history'],
                      state['max_length'])
        self.__class__ = HistoryBuffer


def _history_method(owner: Any, name: str) -> None:
    """Stand in for ``builtins.getattr``; look nothing up.

    A pickled ``HistoryBuffer`` asks for its own methods, which
    :class:`_History` drops: None will do.
    """
    if owner is not _History:
        raise UnpicklingError('Unsupported global: GLOBAL builtins.getattr '
                              'was not an allowed global by default.')


def _numpy_globals() -> list:
    """List what arrays and scalars of numbers are made of."""
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
"""What a checkpoint may name beyond torch's own list of safe types."""
# Not getattr, which is safe only as it is read here.
_SAFE_NAMES = {entry[1] if isinstance(entry, tuple) else
               f'{entry.__module__}.{entry.__qualname__}'
               for entry in SAFE_GLOBALS} - {'builtins.getattr'}


def load_file(path: str | os.PathLike, map_location: Any = None,
              source: str = '') -> Any:
    """Read a checkpoint without running anything in it.

    Args:
        path: A file of ``torch.save``, or a safetensors file, which is
            recognized by its content.
        map_location: As for ``torch.load``; None for the CPU.
        source: Where the file came from, for error messages.

    Returns:
        What was saved. An MMEngine checkpoint is a dict with ``meta`` and
        ``state_dict`` and, if training can be resumed from it,
        ``message_hub``, ``optimizer`` and ``param_schedulers``.

    Raises:
        UserError: If the file is missing, damaged, no checkpoint, or asks for
            objects that could run code.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise UserError(f'checkpoint {path}: no such file; check the path')
    with _explain_refusal(path, source or path):
        if _is_safetensors(path):
            return _load_safetensors(path, map_location or 'cpu')
        return torch.load(unzip_checkpoint(path), weights_only=True,
                          map_location=map_location or 'cpu')


def _is_safetensors(path: str) -> bool:
    """Tell whether a file begins with a length and a JSON header."""
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


# What torch adds to a refusal.
_NOTICES = ('Detected pickle protocol', '.*looks like a TorchScript archive')


@contextmanager
def _explain_refusal(path: str, source: str) -> Iterator[None]:
    """Allow what is safe, and say in one line why a file cannot be read."""
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
        reason = _find_reason(path, str(error))
        raise UserError(f'checkpoint {source}: {reason}') from error


def _find_reason(path: str, message: str) -> str:
    if reason := find_foreign_content(path):
        return reason
    if 'TorchScript' in message or 'unrecognized function' in message:
        return ('refused, it holds a program, not only weights (nothing was '
                'run); get a file that holds only weights (a state dict)')
    named = re.findall(r'GLOBAL (\S+?)(?= was not| whose module)', message)
    protocol = 0
    if 'Unsupported operand' in message:
        protocol, found = scan_pickle(path)
        named += [name for name in found if name not in _SAFE_NAMES]
    if named:
        return (f'refused, it asks for {named[0]}, which could run code '
                '(nothing was run); get a file that holds only weights '
                '(a state dict)')
    if protocol > 3:
        return (f'is a pickle of protocol {protocol}, which torch does not '
                'read as data only; if you trust it, load it in Python and '
                'save it with torch.save(..., pickle_protocol=2)')
    return ('is cut short, damaged or not a PyTorch checkpoint '
            f'({os.path.getsize(path)} bytes); copy or download it again')


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a local file: MMEngine's loader of paths."""
    return load_file(filename, map_location)


def load_url(url: str, model_dir: str | None = None, map_location: Any = None,
             progress: bool = True) -> Any:
    """Load from a URL, in place of ``torch.hub.load_state_dict_from_url``.

    ``URL#sha256=DIGITS`` gives a checksum; those of known weights and of
    metafiles are checked without.
    """
    url, _, checksum = url.partition('#sha256=')
    path = fetch(url, checksum or find_checksum(url), model_dir, progress)
    return load_download(path, url, map_location)


def load_download(path: str, source: str, map_location: Any = None,
                  checksum: str = '') -> Any:
    """Load a downloaded file, or a link to it; remove both if that fails.

    Raises:
        UserError: As :func:`load_file` does, or if the checksum differs.
    """
    try:
        if checksum and (reason := find_mismatch(path, checksum)):
            raise UserError(f'checkpoint {source}: {reason}')
        return load_file(path, map_location, source)
    except UserError as error:
        for file in (os.path.realpath(path), path):
            if os.path.lexists(file):
                os.remove(file)
        raise UserError(f'{error}; it has been removed from the cache'
                        ) from error
