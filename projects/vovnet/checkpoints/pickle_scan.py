"""The modules' names in a pickle, read without unpickling it.

torch's ``weights_only`` reader names what it refuses up to pickle protocol 3
and stops in later ones at the first instruction that it does not know.
"""
import pickletools
import re
import zipfile
from typing import IO, Any

from .download import unzip_checkpoint

_TENSOR_PARTS = re.compile(
    r'torch\._utils\._rebuild_\w+|torch\.\w*Storage|torch\.Size|'
    r'torch\.(bfloat|float|int|uint|complex)\d+\w*|torch\.bool|'
    r'collections\.OrderedDict')


def scan_pickle(path: str) -> tuple[int, list[str]]:
    """Find what a checkpoint asks for beyond the parts of tensors.

    Returns:
        The highest pickle protocol, 0 if there is no whole pickle, and each
        ``module.name`` that could run code.
    """
    file = unzip_checkpoint(path)
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                name = next(n for n in archive.namelist()
                            if n.endswith('data.pkl'))
                with archive.open(name) as pickle:
                    return _scan(pickle)
        with open(file, 'rb') if isinstance(file, str) else file as pickle:
            return _scan(pickle)
    except (zipfile.BadZipFile, StopIteration, OSError):
        return 0, []


def _scan(file: IO[bytes]) -> tuple[int, list[str]]:
    highest, all_names = 0, []
    while True:
        try:
            protocol, names = _read_pickle(file)
        # Older versions of torch wrote several pickles, then raw numbers,
        # at which this can fail in any way.
        except Exception:
            return highest, all_names
        highest = max(highest, protocol)
        all_names += [name for name in names
                      if not _TENSOR_PARTS.fullmatch(name)]


def _read_pickle(file: IO[bytes]) -> tuple[int, list[str]]:
    """Return one pickle's protocol and what it looks up in modules."""
    protocol, names = 0, []
    memo: dict[int, Any] = {}
    pushed = ['', '']  # the last strings: what STACK_GLOBAL takes
    for code, value, _ in pickletools.genops(file):
        if code.name == 'PROTO':
            protocol = value
        elif code.name in ('GLOBAL', 'INST'):
            names.append(value.replace(' ', '.'))
        elif code.name == 'STACK_GLOBAL':
            names.append('.'.join(pushed))
        elif code.name == 'MEMOIZE' or 'PUT' in code.name:
            memo[len(memo) if value is None else value] = pushed[-1]
        elif 'GET' in code.name:
            pushed = [pushed[-1], str(memo.get(value, ''))]
        elif isinstance(value, str):
            pushed = [pushed[-1], value]
    return protocol, names
