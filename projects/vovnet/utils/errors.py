"""What goes wrong on the user's side, and how the command lines say it.

Own work. The messages that are recognised were read in mmengine 0.10.7
(``registry/build_functions.py``), mmcv 2.1.0 (``transforms/loading.py``) and
torch 2.11 (``utils/data``, ``_utils.ExceptionWrapper``).
"""
import errno
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(ValueError):
    """A mistake that the user can mend: ``str(e)`` is one line.

    The line says what is wrong, where, and what to do. Command lines print
    it without a traceback; everything else that is raised is a bug and keeps
    its traceback.
    """


def require_package(package: str, purpose: str, wheel: str | None = None) -> None:
    """See that a package is installed.

    Args:
        package: What Python imports.
        purpose: What needs it.
        wheel: Its name for pip, if another.

    Raises:
        UserError: If it is not.
    """
    if find_spec(package) is None:
        raise UserError(f'{package}: is not installed, and {purpose} needs '
                        f'it; pip install {wheel or package}')


@contextmanager
def report_user_errors() -> Iterator[None]:
    """End the program with one line for an error that the user can mend.

    Works as a decorator of ``main`` and in a ``with`` statement. What
    :func:`explain` knows is printed as ``error: ...`` on stderr, and the exit
    status is 1 (130 after Ctrl-C; argparse keeps its 2). Other errors, and
    all of them if the environment has ``VOVNET_TRACEBACK=1``, pass through.

    In a distributed run rank 0 speaks for all about a :class:`UserError`,
    which every rank meets alike; other errors may be one rank's own (memory,
    an image of its share), so each rank names itself.

    Raises:
        SystemExit: In place of an error that has been printed.
    """
    # A full disk must not make each line of the log and the threads that
    # write (TensorBoard's) print a traceback; the main thread hears of it.
    logging.raiseExceptions = False
    threading.excepthook = _thread_hook
    rank = get_process_rank()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        line = explain(error)
        if line is None or os.environ.get('VOVNET_TRACEBACK') == '1':
            raise
        if rank == 0 or not isinstance(error, UserError):
            where = f'[rank {rank}] ' if rank else ''
            print(f'{where}error: {line}', file=sys.stderr, flush=True)
        interrupted = isinstance(error, KeyboardInterrupt)
        raise SystemExit(130 if interrupted else 1) from None


def get_process_rank() -> int:
    """The number of this process, as its launcher has set it; 0 if none."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0)))


def _thread_hook(args: threading.ExceptHookArgs) -> None:
    """Say nothing of what the main thread is going to explain."""
    if args.exc_value is None or explain(args.exc_value) is None:
        threading.__excepthook__(args)


def explain(error: BaseException) -> str | None:
    """What the user should read about an error.

    Args:
        error: Any exception, also one that a data loader worker passed on.

    Returns:
        str | None: One line that says what is wrong, where, and what to do;
        None if the error is not known to be the user's to mend.
    """
    kind, text = _original(error)
    line = (text if isinstance(error, UserError) else 'interrupted' if
            isinstance(error, KeyboardInterrupt) else _known(kind, text))
    return line and ' '.join(line.split())


def _original(error: BaseException) -> tuple[str, str]:
    """Class name and message, without the wrapping of a loader's worker."""
    kind, text = type(error).__name__, str(error)
    if isinstance(error, OSError) and error.filename:
        # The message has the form that str() gives, whatever the subclass.
        text = f"[Errno {error.errno}] {error.strerror}: '{error.filename}'"
    if text.startswith('Caught ') and 'Original Traceback' in text:
        kind, _, text = text.strip().splitlines()[-1].partition(': ')
    return kind.rpartition('.')[-1], text


def _known(kind: str, text: str) -> str | None:
    if found := re.search(r'failed to load image: (.+)', text):
        return (f'{found[1]}: cannot be read as an image (damaged or cut '
                'short); replace it, or take it out of the data set')
    if kind == 'error' and '!buf.empty()' in text:
        return ('an image file of the data set is empty (0 bytes); find it '
                'with `find <image folder> -size 0` and replace it')
    if found := re.search(r"(\S+) is not in the (\S+) registry", text):
        name = found[1].strip('\'"')
        return (f"config: type '{name}' is not known to the {found[2]} "
                'registry; check its spelling, or name the module that '
                'defines it in custom_imports')
    if found := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword "
                          r"argument '(\w+)'", text):
        return (f"config: {found[1]} has no option '{found[2]}'; check its "
                'spelling')
    if found := re.match(r'(\S+)\. is not in the pretrained model', text):
        return ('init_cfg: no tensor of the checkpoint begins with '
                f"'{found[1]}.'; check init_cfg.prefix")
    # What this project's own modules refuse, when built (MMEngine's builder
    # wraps it) or when run.
    if kind == 'ValueError' and (found := re.search(
            r'(?:class `\w+` in vovnet/\S+: '
            r'|^(?=[A-Z]\w*(?:Net|Neck|Head)\w*: ))(.+)', text)):
        return f'config: {found[1]}'
    if kind == 'OutOfMemoryError' or re.match(
            'CUDA error: (out of memory|CUBLAS_STATUS_ALLOC_FAILED)', text):
        # Torch goes on, in the same line, about other processes and fractions.
        reason = re.split(r'\. (?:GPU|Of the|Including|Process)|\n', text)[0]
        return (f'{reason.rstrip(".")}. Lower the batch size or the image '
                'scale; in training also try --amp or backbone.with_cp=block')
    if 'Expected to have finished reduction in the prior iteration' in text:
        return ('some parameters of the model take no part in the loss, which '
                'distributed training has to know; set '
                'find_unused_parameters=True in the config')
    cause = text.partition('Last error:')[2].strip()
    if kind == 'DistBackendError' and 'ncclRemoteError' not in text and cause:
        return (f'NCCL: {cause}; check GPUs, network and /dev/shm (docker: '
                '--shm-size), NCCL_DEBUG=INFO tells more')
    if kind == 'DistBackendError' or 'gloo' in text and 'by peer' in text:
        return ('another process of this job has ended; its message says why '
                f'({text.splitlines()[0]})')
    if 'DataLoader worker' in text and ('killed by signal' in text
                                        or 'bus error' in text.lower()):
        return (f'{text.splitlines()[0]} Most likely the machine ran out of '
                'memory or of /dev/shm (docker: --shm-size); lower '
                'num_workers or prefetch_factor')
    if found := re.match(r"\[Errno (\d+)\] ([^:]+)(?:: '(.*?)')?", text):
        return _system(int(found[1]), found[2], found[3])
    if kind in ('URLError', 'HTTPError'):
        return (f'a download failed ({text}); check the network, or fetch the '
                'file elsewhere and put it where it is missing')
    if kind == 'FileNotFoundError':
        return text
    return None


def _system(number: int, reason: str, file: str | None) -> str | None:
    """What the operating system refused, if it can be put right."""
    remedies = {
        errno.ENOENT: 'check the path in the config or on the command line',
        errno.EACCES: 'check its owner and permissions',
        errno.EPERM: 'check its owner and permissions',
        errno.EROFS: 'choose another place',
        errno.EEXIST: 'that name is taken, choose another',
        errno.ENOTDIR: 'a part of the path is a file, choose another',
        errno.EISDIR: 'a file is expected, name one',
        **dict.fromkeys(NO_ROOM, 'make room, or choose another place')
    }
    if number not in remedies:
        return None
    return f'{file or "writing a file"}: {reason}; {remedies[number]}'
