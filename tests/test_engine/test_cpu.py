"""What makes training on a CPU fast changes no number."""
import copy
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel

from vovnet.engine import ChannelsLastHook
from vovnet.models import VoVNet
from vovnet.utils import malloc

# A tensor of 64 MB, freed and wanted again: how many pages it cost.
FAULTS = '''
import resource, runpy, sys, torch

def count_page_faults():
    for _ in range(20):  # the heap grows until an aligned hole is large enough
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = count_page_faults()
assert runpy.run_path(sys.argv[1])['keep_freed_memory']()
print(plain, count_page_faults())
'''


def test_memory_is_kept():
    run = subprocess.run([sys.executable, '-c', FAULTS, malloc.__file__],
                         capture_output=True, text=True, check=True)
    plain, kept = map(int, run.stdout.split())
    # At most one of the five was new to the process.
    assert kept < 0.3 * plain


def test_channels_last_trains_alike():
    torch.manual_seed(0)
    plain = VoVNet('V2-19-slim').double()
    ours = copy.deepcopy(plain)
    ChannelsLastHook().before_run(SimpleNamespace(model=ours))
    weight = ours.stage3.block1.aggregation.conv.weight
    assert ours.stem[0].conv.weight.is_contiguous(
        memory_format=torch.channels_last) and weight.requires_grad
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    outs = [model(x) for model in (plain, ours)]
    assert outs[1][0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(*outs):
        assert torch.allclose(a, b)
        (a.square().mean() + b.square().mean()).backward(retain_graph=True)
    for a, b in zip(plain.parameters(), ours.parameters()):
        assert torch.allclose(a.grad, b.grad)


@pytest.fixture
def group(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/group',
                            rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_gradients_of_ddp_are_channels_last(group):
    """DDP lays its buckets out as the weights are when it wraps them."""
    wrapped = []

    def wrap_model(cfg, model):
        wrapped.append(cfg)
        return MMDistributedDataParallel(model)

    runner = SimpleNamespace(
        model=wrap_model(None, VoVNet('V2-19-slim')), wrap_model=wrap_model,
        cfg=dict(model_wrapper_cfg=dict(type='mine')))
    ChannelsLastHook().before_run(runner)
    assert wrapped == [None, dict(type='mine')]
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # that strides do not match
        for _ in range(2):
            sum(out.mean() for out in runner.model(x)).backward()
    for weight in runner.model.parameters():
        assert weight.grad.stride() == weight.stride()
