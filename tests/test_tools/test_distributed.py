"""How processes of a distributed run begin and end."""
import pytest
import torch
from mmengine.config import Config

from vovnet.engine import distributed
from vovnet.engine.prepare import prepare_run
from vovnet.utils.errors import UserError

# A run whose runner is built, and then succeeds or fails.
SCRIPT = '''
import logging, sys, time
import torch.distributed as dist
from mmengine.config import Config
from mmengine.registry import RUNNERS
from vovnet.engine import run
from vovnet.engine.prepare import prepare_run

succeeds = sys.argv[1] == 'succeed'

def destroy():
    if not succeeds:
        time.sleep(600)  # as NCCL, while others are in a collective
    print('group destroyed')

@RUNNERS.register_module()
class FakeRunner:
    logger = logging.getLogger()

    @classmethod
    def from_cfg(cls, cfg):
        return cls()

    def register_hook(self, hook):
        pass

    def test(self):
        print('a line')
        if not succeeds:
            sys.exit(1)

dist.destroy_process_group = destroy
cfg = Config(dict(runner_type='FakeRunner', model={}))
prepare_run(cfg, '.', 'pytorch')
run.test(cfg)
'''


def test_more_processes_than_gpus(tmp_path, monkeypatch):
    for name, value in dict(is_available=lambda: True,
                            device_count=lambda: 2).items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(distributed.atexit, 'register', lambda leave: None)
    for rank in 1, 2:
        monkeypatch.setenv('LOCAL_RANK', str(rank))
        cfg = Config(dict(model={}))
        if rank < 2:
            prepare_run(cfg, str(tmp_path), 'pytorch')
            continue
        with pytest.raises(UserError, match='more processes than GPUs here, '
                           '2; start one for each'):
            prepare_run(cfg, str(tmp_path), 'pytorch')


@pytest.mark.parametrize(('how', 'status', 'said'), [
    ('succeed', 0, ['a line', 'group destroyed']), ('fail', 1, ['a line'])])
def test_a_process_leaves(how, status, said, run_tool, tmp_path):
    """One that failed does not wait for the others, who wait for it."""
    (tmp_path / 'script.py').write_text(SCRIPT)
    run = run_tool(tmp_path, tmp_path / 'script.py', how, RANK='0',
                   WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')
    assert run.returncode == status, run.stderr
    assert run.stdout.splitlines() == said
