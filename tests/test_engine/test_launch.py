"""How processes of a distributed run begin and end."""
import os
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
from mmengine.config import Config

from vovnet.engine import launch
from vovnet.utils.errors import UserError

SCRIPT = '''
import sys, time
from argparse import Namespace
import torch.distributed as dist
from mmengine.config import Config
from vovnet.engine import launch

succeeds = sys.argv[1] == 'succeed'

def destroy():
    if not succeeds:
        time.sleep(600)  # as NCCL, while others are in a collective
    print('group destroyed')

def step():
    print('a line')
    if not succeeds:
        sys.exit(1)

dist.destroy_process_group = destroy
launch.prepare(Config(dict(model={})), Namespace(
    launcher='pytorch', local_rank=0, work_dir='.', config='a.py'))
launch._run(step, '.')
'''


def test_more_processes_than_gpus(tmp_path, monkeypatch):
    for name, value in dict(is_available=lambda: True,
                            device_count=lambda: 2).items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(launch.atexit, 'register', lambda leave: None)
    for rank in 1, 2:
        monkeypatch.setenv('LOCAL_RANK', str(rank))
        args = Namespace(launcher='pytorch', local_rank=0, config='a.py',
                         work_dir=str(tmp_path))
        if rank < 2:
            launch.prepare(Config(dict(model={})), args)
            continue
        with pytest.raises(UserError, match='more processes than GPUs here, '
                           '2; start one for each'):
            launch.prepare(Config(dict(model={})), args)


@pytest.mark.parametrize(('how', 'status', 'said'), [
    ('succeed', 0, ['a line', 'group destroyed']), ('fail', 1, ['a line'])])
def test_a_process_leaves(how, status, said, tmp_path):
    """One that failed does not wait for the others, who wait for it."""
    run = subprocess.run(
        [sys.executable, '-c', SCRIPT, how], cwd=tmp_path, timeout=120,
        capture_output=True, text=True, env=dict(
            os.environ, MASTER_ADDR='127.0.0.1', MASTER_PORT='0', RANK='0',
            WORLD_SIZE='1', CUDA_VISIBLE_DEVICES=''))
    assert run.returncode == status, run.stderr
    assert run.stdout.splitlines() == said
