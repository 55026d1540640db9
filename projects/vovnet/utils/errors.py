"""Errors that users can mend, reported in one line by the command lines."""
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
    """A mistake that the user can mend.

    The message says in one line what is wrong, where, and what to do. Command
    lines print it without a traceback.
    """


def require_package(package: str, purpose: str,
                    wheel: str | None = None) -> None:
    """Check that a package is installed.

    Args:
        package: The name that Python imports.
        purpose: What needs it.
        wheel: The name for pip, if another.

    Raises:
        UserError: If the package is missing.
    """
    if find_spec(package) is None:
        raise UserError(f'{package}: is not installed, and {purpose} needs '
                        f'it; pip install {wheel or package}')


@contextmanager
def report_user_errors() -> Iterator[None]:
    """End the program with one line for an error that the user can mend.

    Works as a decorator of ``main`` and in a ``with`` statement. An error that
    :func:`explain` knows is printed to stderr as ``error: ...``, and the exit
    status is 1 (130 after Ctrl-C). Other errors, and all errors if the
    environment has ``VOVNET_TRACEBACK=1``, pass through.

    In a distributed run rank 0 reports a :class:`UserError`, which all ranks
    meet alike. Other errors may be one rank's (memory, an image of its share),
    so each rank reports them under its number.

    Raises:
        SystemExit: In place of an error that has been printed.
    """
    # A full disk must not make each line of the log and the threads that
    # write (TensorBoard's) print a traceback; the main thread hears of it.
    logging.raiseExceptions = False
    threading.excepthook = _report_thread_error
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
    """Return this process's rank, as its launcher has set it, or 0."""
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0)))


def _report_thread_error(args: threading.ExceptHookArgs) -> None:
    """Leave out what the main thread is going to explain."""
    if args.exc_value is None or explain(args.exc_value) is None:
        threading.__excepthook__(args)


# Errors of mmengine 0.10.7, mmcv 2.1.0, torch 2.11 and Python, as
# 'Class: message', and what to say; {0} is the pattern's first group.
_EXPLANATIONS = [(re.compile(pattern), line) for pattern, line in (
    # -- data
    (r'failed to load image: (.+)',
     '{0}: cannot be read as an image (damaged or cut short); replace it, or '
     'take it out of the data set'),
    (r'^error: .*!buf\.empty\(\)',
     'an image file of the data set is empty (0 bytes); find it with '
     '`find <image folder> -size 0` and replace it'),
    # -- config
    (r"""["']?([^\s"']+)["']? is not in the (\S+) registry""",
     "config: type '{0}' is not known to the {1} registry; check its "
     'spelling, or name the module that defines it in custom_imports'),
    (r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'",
     "config: {0} has no option '{1}'; check its spelling"),
    (r'(\S+)\. is not in the pretrained model',
     "init_cfg: no tensor of the checkpoint begins with '{0}.'; check "
     'init_cfg.prefix'),
    # Raised by this project's modules when built (MMEngine's builder puts the
    # class before the message) or when run.
    (r'^ValueError: (?:.*class `\w+` in vovnet/\S+: '
     r'|(?=[A-Z]\w*(?:Net|Neck|Head)\w*: ))(.+)', 'config: {0}'),
    # -- memory and processes
    # Torch goes on, in the same line, about other processes and fractions.
    (r'^(?:OutOfMemoryError: |\w+: (?=CUDA error: '
     r'(?:out of memory|CUBLAS_STATUS_ALLOC_FAILED)))'
     r'(.*?)(?:\. (?:GPU|Of the|Including|Process)|\.?\n|\.?$)',
     '{0}. Lower the batch size or the image scale; in training also try '
     '--amp or backbone.with_cp=block'),
    (r'Expected to have finished reduction in the prior iteration',
     'some parameters of the model take no part in the loss, which '
     'distributed training has to know; set find_unused_parameters=True in '
     'the config'),
    (r'(?s)^DistBackendError: (?!.*ncclRemoteError).*?Last error:\s*(\S.*)',
     'NCCL: {0}; check GPUs, network and /dev/shm (docker: --shm-size), '
     'NCCL_DEBUG=INFO tells more'),
    (r'^(?:DistBackendError: |\w+: (?=.*gloo.*by peer))(.*)',
     'another process of this job has ended; its message says why ({0})'),
    (r'(DataLoader worker .*?'
     r'(?:killed by signal: [\w ]+|exited unexpectedly))',
     '{0}. Most likely the machine ran out of memory or of /dev/shm (docker: '
     '--shm-size); lower num_workers or prefetch_factor'),
    # -- files and network
    (r'(?s)^(?:URLError|HTTPError): (.*)',
     'a download failed ({0}); check the network, or fetch the file elsewhere '
     'and put it where it is missing'),
)]

_REMEDIES = {
    errno.ENOENT: 'check the path in the config or on the command line',
    errno.EACCES: 'check its owner and permissions',
    errno.EPERM: 'check its owner and permissions',
    errno.EROFS: 'choose another place',
    errno.EEXIST: 'that name is taken, choose another',
    errno.ENOTDIR: 'a part of the path is a file, choose another',
    errno.EISDIR: 'a file is expected, name one',
    **dict.fromkeys(NO_ROOM, 'make room, or choose another place')
}


def explain(error: BaseException) -> str | None:
    """Explain an error to the user in one line.

    Args:
        error: Any exception, also one passed on by a data loader worker.

    Returns:
        What is wrong, where, and what to do; None if the error is not known
        to be one that the user can mend.
    """
    if isinstance(error, KeyboardInterrupt):
        return 'interrupted'
    text = _describe(error)
    kind, _, message = text.partition(': ')
    if kind == 'UserError':
        line = message
    elif found := re.match(
            r"\w+: \[Errno (\d+)\] ([^:]+)(?:: '(.*?)')?", text):
        number, reason, file = found.groups()
        remedy = _REMEDIES.get(int(number))
        line = remedy and f'{file or "writing a file"}: {reason}; {remedy}'
    elif kind == 'FileNotFoundError':
        line = message
    else:
        matches = ((pattern.search(text), line)
                   for pattern, line in _EXPLANATIONS)
        line = next((line.format(*found.groups())
                     for found, line in matches if found), None)
    return line and ' '.join(line.split())


def _describe(error: BaseException) -> str:
    """Return 'Class: message', without what a loader's worker adds."""
    kind = type(error).__name__
    text = str(error)
    if isinstance(error, OSError) and error.errno and error.filename:
        # The message has the form that str() gives, whatever the subclass.
        text = f"[Errno {error.errno}] {error.strerror}: '{error.filename}'"
    if text.startswith('Caught ') and 'Original Traceback' in text:
        kind, _, text = text.strip().splitlines()[-1].partition(': ')
    return f'{kind.rpartition(".")[-1]}: {text}'
