"""Peak memory of a network while it runs.

Figures of the CUDA allocator, the profiler, the driver, and Linux's high-water
mark of the process (VmHWM and clear_refs in proc(5)).
"""
import ctypes
import gc
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.profiler import profile

from ..deploy.optimize.apply import DTYPES


@dataclass(frozen=True)
class Memory:
    """Peak memory of a network, bytes.

    Attributes:
        tensors: Weights, input and the most that torch had allocated at once.
            Comparable between machines. None if another runtime holds the
            weights.
        reserved: Growth of what torch's CUDA allocator holds; None on a CPU.
        system: Growth of the system's figure, with the buffers of libraries:
            of the GPU's memory, or of the process on a CPU (None without
            Linux's /proc).
        in_use: All memory in use on a GPU, by other programs too.
    """
    tensors: int | None
    reserved: int | None
    system: int | None
    in_use: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)


def measure_memory(build: Callable[[], tuple[nn.Module, Iterable[Tensor],
                                             Callable[[], Any]]],
                   device: torch.device) -> tuple[Memory, Callable[[], Any]]:
    """Build a network and measure its peak memory in a second run.

    In the first run libraries choose and prepare their algorithms. Networks
    that exist already do not count.

    Args:
        build: Returns the network, the tensors of its input, and a function
            that runs it.
        device: Where it runs.

    Returns:
        The figures, and the function that runs the network.
    """
    measure = _measure_cuda if device.type == 'cuda' else _measure_cpu
    return measure(build, device)


def _measure_cuda(build: Callable, device: torch.device) -> tuple:
    _load_libraries(device)
    gc.collect()
    torch.cuda.empty_cache()
    allocated = torch.cuda.memory_allocated(device)
    reserved = torch.cuda.memory_reserved(device)
    free_before, _ = torch.cuda.mem_get_info(device)
    *_, run = build()
    run()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    free, total = torch.cuda.mem_get_info(device)
    return Memory(
        torch.cuda.max_memory_allocated(device) - allocated,
        torch.cuda.max_memory_reserved(device) - reserved,
        free_before - free, total - free), run


@cache
def _load_libraries(device: torch.device) -> None:
    """Load what libraries keep, which would count for the first network.

    These are the handles and workspaces of cuDNN and cuBLAS, and kernels that
    are loaded when first used.
    """
    for dtype in DTYPES.values():
        if dtype == torch.bfloat16 and device.type == 'cuda' and \
                not torch.cuda.is_bf16_supported(including_emulation=False):
            continue
        maps = torch.ones(2, 8, 16, 16, dtype=dtype, device=device,
                          requires_grad=True)
        matrix = maps[0, 0]
        (F.conv2d(maps, maps[:, :, :3, :3]).sum()
         + (matrix @ matrix).sum()).backward()


def _measure_cpu(build: Callable, device: torch.device) -> tuple:
    gc.collect()
    _trim_heap()
    resident = _read_process_size('VmRSS')
    network, inputs, run = build()
    tensors = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
               for t in (*network.parameters(), *network.buffers(), *inputs)}
    run()
    peak = measure_allocation_peak(run)
    _trim_heap()
    system = None
    if resident is not None and _reset_high_water_mark():
        run()
        system = max(0, _read_process_size('VmHWM') - resident)
    return Memory(sum(tensors.values()) + peak, None, system), run


def measure_allocation_peak(run: Callable[[], Any]) -> int:
    """Return the peak of what torch allocates on the CPU in a run, bytes."""
    # Kineto looks for a GPU and would complain in the terminal.
    os.environ.setdefault('KINETO_LOG_LEVEL', '5')
    with profile(profile_memory=True, use_kineto=True) as record:
        result = run()
    del result
    steps = sorted((event.start_ns(), event.nbytes())
                   for event in record.kineto_results.events()
                   if event.name() == '[memory]'
                   and event.device_type() == torch.autograd.DeviceType.CPU)
    held = peak = 0
    for _, size in steps:
        held += size
        peak = max(peak, held)
    return peak


def _read_process_size(key: str) -> int | None:
    """Read a size of this process in bytes; None without Linux's /proc."""
    try:
        with open('/proc/self/status') as file:
            found = re.search(rf'^{key}:\s+(\d+) kB', file.read(), re.M)
    except OSError:
        return None
    return found and int(found[1]) * 1024


def _reset_high_water_mark() -> bool:
    try:
        with open('/proc/self/clear_refs', 'w') as file:
            file.write('5')
    except OSError:
        return False
    return True


def _trim_heap() -> None:
    """Have glibc return free memory, so that its reuse shows as growth."""
    if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):
        trim(0)
