"""Generated data sets, written whole or not at all."""
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from ..utils.errors import UserError

SPLITS = ('train', 'val')
RECORD = 'shapes.json'
"""File in the root of a generated set that holds its settings."""


def write_once(root: str | Path, settings: dict,
               list_files: Callable[[dict], set[str]],
               write: Callable[[Path], None], force: bool = False) -> bool:
    """Write a generated set whole or not at all, unless it exists.

    It is built in a hidden folder beside ``root``, which is then renamed.

    Args:
        root: Folder to make; missing, empty or an earlier set.
        settings: All that the set depends on, and its 'generator', a dotted
            name. They are recorded in the set's ``shapes.json``.
        list_files: Returns the files of a set with given settings, relative
            to its root.
        write: Fills a folder with the set.
        force: Replace an earlier set of the same generator.

    Returns:
        True if the set was written, False if it was there already.

    Raises:
        UserError: If ``root`` holds anything else, or cannot be written.
    """
    root = Path(root).expanduser().resolve()
    try:
        if _is_made(root, settings, list_files, force):
            return False
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{root.name}-',
                                         dir=root.parent) as beside:
            new = Path(beside, 'new')
            for file in list_files(settings):
                Path(new, file).parent.mkdir(parents=True, exist_ok=True)
            write(new)
            Path(new, RECORD).write_text(json.dumps(settings, indent=2) + '\n')
            if root.exists():
                root.rename(Path(beside, 'old'))
            new.rename(root)
    except OSError as error:
        raise UserError(
            f'cannot write {root} ({error.strerror or error}); make room or '
            'choose a folder that you may write to') from error
    return True


def _is_made(root: Path, settings: dict,
             list_files: Callable[[dict], set[str]], force: bool) -> bool:
    """Return whether the set exists; raise if ``root`` is taken otherwise."""
    if root.exists() and not root.is_dir():
        raise UserError(f'{root} is a file; choose another folder')
    if not root.exists() or not any(root.iterdir()):
        return False
    tool = settings['generator'].rpartition('.')[-1]
    try:
        recorded = json.loads((root / RECORD).read_text())
        is_own = recorded['generator'] == settings['generator']
        expected = list_files(recorded) if is_own else set()
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        is_own = False
    if not is_own:
        raise UserError(f'{root} holds something that {tool} did not make; '
                        'choose another folder')
    found = {path.relative_to(root).as_posix() for path in root.rglob('*')
             if path.is_symlink() or not path.is_dir()}
    missing, foreign = expected - found, found - expected
    if recorded == settings and not missing and not force:
        return True
    if foreign:
        raise UserError(f'{root} also holds {min(foreign)}, which {tool} '
                        'did not make; choose another folder, or move that '
                        'file away')
    if force:
        return False
    differences = [f'{key} is {recorded.get(key)!r}, not {value!r}'
                   for key, value in settings.items()
                   if recorded.get(key) != value]
    reason = ', '.join(differences) or f'{min(missing)} is missing'
    raise UserError(f'{root} holds another generated set ({reason}); choose '
                    'another folder, or replace the set with --force '
                    '(force=True)')


def check_integers(low: int, **values: int) -> None:
    """Raise a UserError unless all values are integers of at least ``low``."""
    for name, value in values.items():
        if not isinstance(value, int) or value < low:
            raise UserError(f'{name} is {value!r}; give a whole number of at '
                            f'least {low}')


def write_jpeg(file: Path, image: np.ndarray) -> None:
    """Write a BGR image, (H, W, 3), uint8."""
    _, jpeg = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    file.write_bytes(jpeg)


@contextmanager
def exit_when_stopped(tool: str) -> Iterator[None]:
    """End a tool with one line on Ctrl-C and SIGTERM.

    The exception lets :func:`write_once` remove its unfinished folder.
    """
    stopped = False

    def stop(*_) -> None:
        nonlocal stopped
        stopped = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    except (Exception, KeyboardInterrupt):
        # NumPy may turn the interrupt into another exception.
        if not stopped:
            raise
        sys.exit(f'\n{tool}: interrupted, nothing was written')
