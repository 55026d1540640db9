"""What a pickle names, read without unpickling it.

Own work on the standard library's ``pickletools``. torch's reader of weights
(``weights_only=True``) names what it refuses in pickles of protocol 2 and 3;
in later ones (``STACK_GLOBAL``) it stops at the first such instruction.
"""
import pickletools
import re
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from .download import unwrapped

# What weights are made of; anything else could be a call of anything.
_HARMLESS = re.compile(
    r'torch\._utils\._rebuild_\w+|torch\.\w*Storage|torch\.Size|'
    r'torch\.(bfloat|float|int|uint|complex)\d+\w*|torch\.bool|'
    r'collections\.OrderedDict')


def examine(path: str) -> tuple[int, list[str]] | None:
    """Read the pickles of a checkpoint.

    Args:
        path: A pickle, several as older versions of torch wrote, or a zip
            archive of torch, also within another archive.

    Returns:
        tuple[int, list[str]] | None: The highest protocol and, as
        ``module.name``, what could run code; None if there is no whole
        pickle.
    """
    file = unwrapped(path)
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                name = next(n for n in archive.namelist()
                            if n.endswith('data.pkl'))
                with archive.open(name) as pickle:
                    return _examine(pickle)
        with open(file, 'rb') if isinstance(file, str) else file as pickle:
            return _examine(pickle)
    except (zipfile.BadZipFile, StopIteration, OSError):
        return None


def _examine(file: IO[bytes]) -> tuple[int, list[str]] | None:
    protocols, named = [], []
    while True:
        try:
            found = list(_named(file))
        except Exception:  # no pickle from here on: that can fail in any way
            break
        protocols += [each for each in found if isinstance(each, int)]
        named += [each for each in found if isinstance(each, str)
                  and not _HARMLESS.fullmatch(each)]
    return (max(protocols), named) if protocols else None


def _named(file: IO[bytes]) -> Iterator[int | str]:
    """The protocol of one pickle, and what it looks up in modules."""
    yield 0
    memo: dict[int, Any] = {}
    pushed = ['', '']  # the last strings: what STACK_GLOBAL takes
    for code, value, _ in pickletools.genops(file):
        if code.name == 'PROTO':
            yield value
        elif code.name in ('GLOBAL', 'INST'):
            yield value.replace(' ', '.')
        elif code.name == 'STACK_GLOBAL':
            yield '.'.join(pushed)
        elif code.name == 'MEMOIZE' or 'PUT' in code.name:
            memo[len(memo) if value is None else value] = pushed[-1]
        elif 'GET' in code.name:
            pushed = [pushed[-1], str(memo.get(value, ''))]
        elif isinstance(value, str):
            pushed = [pushed[-1], value]
