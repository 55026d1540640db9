"""vovnet.benchmark.memory against counts by hand."""
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vovnet.benchmark import memory
from vovnet.benchmark.memory import measure_allocation_peak, measure_memory

MB = 1_000_000
CPU = torch.device('cpu')


def test_what_is_held_at_once():
    def run():
        a = torch.empty(1 * MB)  # 4 MB
        b = torch.empty(2 * MB)  # 12
        del a  # 8
        c = torch.empty(3 * MB)  # 20
        del b  # 12
        return c, torch.empty(1 * MB)  # 16

    assert measure_allocation_peak(run) == 20 * MB


def test_what_was_there_before_does_not_count():
    held = [torch.empty(5 * MB)]

    def run():
        held.append(torch.empty(2 * MB))

    assert measure_allocation_peak(run) == 8 * MB


class Net(nn.Module):
    """Two maps as large as the input are held at once; 1000 weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1000))
        self.register_buffer('scale', torch.ones(500, dtype=torch.float64))

    def forward(self, x):
        y = x + self.weight[0]
        return y + 1


def build(size=1 * MB):
    network, x = Net(), torch.ones(size)
    return network, [x], lambda: network(x).sum().detach()


def test_weights_input_and_maps():
    with torch.no_grad():
        found, run = measure_memory(build, CPU)
    small = 1000
    assert found.tensors == pytest.approx(
        4 * 1000 + 8 * 500 + 4 * MB + 2 * 4 * MB, abs=small)
    assert found.reserved is None
    assert run() == 2 * MB  # still alive: 1 + 0 + 1 each


def test_growth_of_the_process():
    """In a process of its own, whose heap holds nothing to use again."""
    script = '''
import torch
from vovnet.benchmark.memory import measure_memory
def build():
    x = torch.ones(25_000_000)
    return torch.nn.Identity(), [x], lambda: float((x + 1).sum())
print(measure_memory(build, torch.device('cpu'))[0].system)
'''
    done = subprocess.run([sys.executable, '-c', script], text=True,
                          capture_output=True, check=True)
    # 200 MB, and what the process needs for itself.
    assert 195e6 < int(done.stdout) < 280e6


def test_no_figure_where_the_system_has_none(monkeypatch):
    monkeypatch.setattr(memory, '_read_process_size', lambda key: None)
    assert measure_memory(build, CPU)[0].system is None


def test_libraries_are_loaded_in_all_types():
    """A convolution and a product, forward and backward, once a device."""
    seen = set()

    class Watch(TorchDispatchMode):

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.add((function._schema.name.removeprefix('aten::'),
                      args[0].dtype if args and isinstance(
                          args[0], torch.Tensor) else None))
            return function(*args, **kwargs or {})

    memory._load_libraries.cache_clear()
    with Watch():
        memory._load_libraries(CPU)
    for dtype in torch.float32, torch.float16, torch.bfloat16:
        assert {('convolution', dtype), ('convolution_backward', dtype),
                ('mm', dtype)} <= seen
    seen.clear()
    with Watch():
        memory._load_libraries(CPU)
    assert not seen


def test_cuda_figures_are_those_of_one_network(monkeypatch):
    """Scripted allocator: 300 and 400 are held before, 900 and 1500 at the
    peak, which was far higher in the first run."""
    loaded = []
    monkeypatch.setattr(memory, '_load_libraries', loaded.append)
    peak = dict(allocated=5000, reserved=6000)

    def reset(device):
        peak.update(allocated=300, reserved=400)

    runs, free = [], iter([32_000, 30_000])

    def run():
        runs.append(1)
        if len(runs) == 1:
            peak.update(allocated=8000, reserved=9000)
        else:
            peak.update(allocated=900, reserved=1500)

    for name, value in dict(
            empty_cache=lambda: None, synchronize=lambda device: None,
            # What libraries keep is there before anything is counted.
            memory_allocated=lambda device: 300 if loaded else 0,
            memory_reserved=lambda device: 400,
            reset_peak_memory_stats=reset,
            max_memory_allocated=lambda device: peak['allocated'],
            max_memory_reserved=lambda device: peak['reserved'],
            mem_get_info=lambda device: (next(free), 80_000)).items():
        monkeypatch.setattr(torch.cuda, name, value)
    found, again = measure_memory(lambda: (None, [], run),
                                  torch.device('cuda:0'))
    assert found == memory.Memory(600, 1100, 2_000, 50_000)
    assert again is run and len(runs) == 2
