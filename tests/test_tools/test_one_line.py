"""Which errors are explained, and who says so."""
import errno
import logging
import os
import threading
from urllib.error import URLError

import pytest
import torch
from torch._utils import ExceptionWrapper

from vovnet.utils.errors import UserError, explain, report_user_errors


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What report_user_errors changes for the whole process."""
    monkeypatch.setattr(logging, 'raiseExceptions', True)
    monkeypatch.setattr(threading, 'excepthook', threading.excepthook)
    monkeypatch.delenv('RANK', raising=False)


def from_worker(error: Exception) -> Exception:
    """The error as torch's data loader passes it on."""
    try:
        raise error
    except Exception:
        wrapped = ExceptionWrapper(where='in DataLoader worker process 3')
    try:
        wrapped.reraise()
    except Exception as passed_on:
        return passed_on


@pytest.mark.parametrize('error, parts', [
    (UserError('a.py: wrong; mend it'), ['a.py: wrong; mend it']),
    (FileNotFoundError(errno.ENOENT, 'No such file or directory', 'x/y.jpg'),
     ['x/y.jpg: No such file or directory', 'check the path']),
    (PermissionError(errno.EACCES, 'Permission denied', 'x'),
     ['x: Permission denied', 'permissions']),
    (OSError(errno.ENOSPC, 'No space left on device', 'x'),
     ['x: No space left', 'make room']),
    (AssertionError('failed to load image: x/y.jpg'),
     ['x/y.jpg: cannot be read as an image', 'replace it']),
    (URLError('Name or service not known'),
     ['download failed', 'not known', 'fetch the file elsewhere']),
])
def test_told_alike_here_and_in_a_worker(error, parts):
    for raised in (error, from_worker(error)):
        line = explain(raised)
        assert '\n' not in line
        for part in parts:
            assert part in line


@pytest.mark.parametrize('error, parts', [
    (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.\n'
                            'GPU 0 has ...'),
     ['CUDA out of memory. Tried to allocate 2 GiB. Lower the batch size',
      '--amp', 'with_cp']),
    (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB. '
                            'GPU 0 has a total capacity of 79.10 GiB of '
                            'which 9.56 MiB is free. Of the allocated memory '
                            '1 GiB is allocated by PyTorch.'),
     ['Tried to allocate 20.00 MiB. Lower the batch size']),
    (torch.AcceleratorError("CUDA error: out of memory\nSearch for "
                            "`cudaErrorMemoryAllocation' in"),
     ['CUDA error: out of memory. Lower the batch size']),
    (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling '
                  '`cublasCreate(handle)`'), ['Lower the batch size']),
    (torch.distributed.DistBackendError(
        'NCCL error in: NCCLUtils.cpp:94, unhandled system error (run with '
        'NCCL_DEBUG=INFO for details), NCCL version 2.28.9\nncclSystemError: '
        'System call failed. \nLast error:\nError while creating shared '
        'memory segment /dev/shm/nccl-Z0gUSR (size 9637888), error: No space '
        'left on device (28)'),
     ['/dev/shm/nccl-Z0gUSR', 'No space left', '--shm-size']),
    (torch.distributed.DistBackendError(
        'NCCL error in: NCCLUtils.cpp:94, remote process exited or there was '
        'a network error, NCCL version 2.28.9\nncclRemoteError: A call failed '
        'possibly due to a network error or a remote process exiting '
        'prematurely.\nLast error:\nsocketProgress: Connection closed'),
     ['another process of this job has ended']),
    (RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. '),
     ['killed by signal', 'num_workers', '/dev/shm']),
    (ValueError('class `RetinaNet` in mmdet/models/detectors/retinanet.py: '
                "class `VoVNet` in vovnet/models/backbones/vovnet.py: VoVNet: "
                "arch='V3' is not one of 'V1-39'"),
     ["config: VoVNet: arch='V3' is not one of 'V1-39'"]),
    (ValueError('RefineDetNeck: maps of 41x40 px: pad to multiples of 64'),
     ['config: RefineDetNeck: maps of 41x40 px: pad to multiples of 64']),
    (ValueError('VoVNet: a.pth: none of its tensors fits V1-39'),
     ['config: VoVNet: a.pth: none of its tensors fits']),
    (RuntimeError('Expected to have finished reduction in the prior '
                  'iteration before starting a new one.'),
     ['find_unused_parameters=True']),
    (AssertionError('body. is not in the pretrained model'),
     ["begins with 'body.'", 'init_cfg.prefix']),
    (RuntimeError('[gloo/transport/tcp/pair.cc:547] Connection closed by '
                  'peer [127.0.0.1]:4752'),
     ['another process', 'its message']),
])
def test_explained(error, parts):
    line = explain(error)
    assert '\n' not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize('error', [
    RuntimeError('shapes cannot be multiplied'), KeyError('img'),
    AssertionError(), IndexError('list index out of range'),
    OSError(errno.EIO, 'Input/output error', 'x')])
def test_bugs_keep_their_traceback(error, capsys):
    assert explain(error) is None
    with pytest.raises(type(error)), report_user_errors():
        raise error
    assert capsys.readouterr().err == ''


def test_said_in_one_line(capsys):
    @report_user_errors()
    def main():
        raise UserError('a.py: is\n  wrong')

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err == 'error: a.py: is wrong\n'


def test_interruption(capsys):
    with pytest.raises(SystemExit) as end, report_user_errors():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == 'error: interrupted\n'


@pytest.mark.parametrize('error, says', [
    (UserError('all ranks meet it'), ''),
    (PermissionError(errno.EACCES, 'Permission denied', 'x'), '[rank 1] ')])
def test_other_ranks_say_what_is_their_own(error, says, capsys, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    with pytest.raises(SystemExit), report_user_errors():
        raise error
    printed = capsys.readouterr().err
    assert printed.startswith(f'{says}error: ') if says else printed == ''


def test_threads_leave_it_to_the_main_thread(capsys):
    def fail(error):
        thread = threading.Thread(target=_raise, args=[error], name='writer')
        thread.start()
        thread.join()
        return capsys.readouterr().err

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with report_user_errors():
        assert fail(full) == ''
        assert 'RuntimeError: a bug' in fail(RuntimeError('a bug'))


def _raise(error):
    raise error
