"""Files that are whole or not there, and the room for them."""
import errno
import logging
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper

from vovnet.engine import WholeCheckpointHook, WholeFileBackend
from vovnet.utils.errors import UserError


def test_files_are_written_and_replaced(tmp_path):
    path = tmp_path / 'new/folder/file'
    for content in (b'first', b'second'):
        WholeFileBackend().put(content, path)
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ['file']


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO])
def test_a_failure_leaves_the_old_file(number, tmp_path, monkeypatch):
    path = tmp_path / 'file'
    path.write_bytes(b'good')

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError) as error:
        WholeFileBackend().put(b'worse', path)
    assert (error.value.errno, error.value.filename) == (number, str(path))
    assert os.listdir(tmp_path) == ['file'] and path.read_bytes() == b'good'


@pytest.mark.parametrize('optimizer, copies', [
    (lambda p: torch.optim.SGD(p, lr=1), 1),
    (lambda p: torch.optim.SGD(p, lr=1, momentum=0.9), 2),
    (lambda p: torch.optim.AdamW(p), 3)])
def test_training_needs_room_for_a_checkpoint(optimizer, copies, tmp_path,
                                              monkeypatch):
    """Weights and, for each, what the optimizer keeps of its past."""
    model = torch.nn.Linear(10, 5)
    size = copies * (10 * 5 + 5) * 4
    runner = SimpleNamespace(
        work_dir=str(tmp_path), model=model,
        logger=logging.getLogger('test_whole_checkpoints'),
        message_hub=MessageHub('test_whole_checkpoints'),
        optim_wrapper=OptimWrapper(optimizer(model.parameters())))
    for free in (size, size - 1):
        monkeypatch.setattr(
            shutil, 'disk_usage', lambda path, free=free: SimpleNamespace(
                free=free))
        hook = WholeCheckpointHook(interval=1)
        if free >= size:
            hook.before_train(runner)
        else:
            with pytest.raises(UserError, match='make room') as error:
                hook.before_train(runner)
            assert str(error.value).startswith(f'{tmp_path}: a checkpoint')
