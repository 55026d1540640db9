"""How much memory a network needs while it runs.

Own work on what torch and the operating system tell: the CUDA allocator's
statistics, the profiler's record of CPU allocations, the driver's free
memory, and Linux's high-water mark of a process (proc(5), VmHWM and
clear_refs). mmdet 3.3.0's benchmark (read) resets the peak each time that it
prints it, so that its last line is not the peak.
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
        tensors: Weights, input and what was allocated at once at most, by
            torch's own count. Comparable between machines. None where
            others hold the weights.
        reserved: What torch's CUDA allocator took from the driver for it,
            beside what it had for networks that were there before; None on a
            CPU.
        system: By how much the system's figure grew, the libraries' buffers
            included: on CUDA the driver's for the device, on a CPU the size
            of the process (None where Linux's /proc is not).
        in_use: On CUDA, all that the driver says is in use on the device:
            contexts, other networks and other programs too.
    """
    tensors: int | None
    reserved: int | None
    system: int | None
    in_use: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure_memory(build: Callable[[], tuple[nn.Module, Iterable[Tensor],
                                             Callable[[], Any]]],
                   device: torch.device) -> tuple[Memory, Callable[[], Any]]:
    """Build a network, run it twice, and tell its peak memory.

    The first run lets libraries choose and prepare; the second is watched.
    Networks that were built before do not count.

    Args:
        build (Callable): Gives a network, the tensors of its input, both on
            the device, and what runs the one on the other.
        device (torch.device): Where that is.

    Returns:
        tuple: The figures, and what runs the network, for further use.
    """
    watch = _watch_cuda if device.type == 'cuda' else _watch_cpu
    return watch(build, device)


def _watch_cuda(build: Callable, device: torch.device) -> tuple:
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
    """Have the libraries take what they keep, which is no network's.

    cuDNN's and cuBLAS's handles and work spaces, and kernels that are loaded
    when they are first used, would count for the first network.
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


def _watch_cpu(build: Callable, device: torch.device) -> tuple:
    gc.collect()
    _give_back()
    resident = _status('VmRSS')
    network, inputs, run = build()
    tensors = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
               for t in (*network.parameters(), *network.buffers(), *inputs)}
    run()
    peak = allocation_peak(run)
    _give_back()
    system = None
    if resident is not None and _reset_high_water_mark():
        run()
        system = max(0, _status('VmHWM') - resident)
    return Memory(sum(tensors.values()) + peak, None, system), run


def allocation_peak(run: Callable[[], Any]) -> int:
    """How much CPU memory torch held at once, at most, while something ran.

    Args:
        run (Callable): What runs.

    Returns:
        int: Bytes above those held before.
    """
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


def _status(key: str) -> int | None:
    """A size in bytes from Linux's account of this process."""
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


def _give_back() -> None:
    """Let glibc return what is free, so that it is seen to be used again."""
    if trim := getattr(ctypes.CDLL(None), 'malloc_trim', None):
        trim(0)
