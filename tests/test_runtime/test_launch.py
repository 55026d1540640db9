"""How a process of a distributed run ends."""
import os
import subprocess
import sys

import pytest

SCRIPT = '''
import sys, time
from argparse import Namespace
import torch.distributed as dist
from mmengine.config import Config
from vovnet.runtime import launch

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
