"""How long a network takes: warm-up, interleaved repeats, quantiles.

Own work. mmdet 3.3.0's ``InferenceBenchmark`` (read) runs on CUDA only, drops
five iterations whatever they show, and gives one mean; here several networks
take turns, so that a machine that grows slower does so for all of them.
"""
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

# Types of devices whose time and memory can be measured.
MEASURED = 'cpu', 'cuda'
ORDERS = ('interleaved', 'shuffled', 'sequential')


@dataclass
class Latency:
    """Times of the runs of one network.

    Attributes:
        repeats: Seconds of each run, a list for each repeat.
        batches: In the same order, which of its batches the run was on.
        warm_up_runs: How many runs went before, untimed.
        stable: Whether the warm-up ended because the times had settled.
    """
    repeats: list[list[float]] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    warm_up_runs: int = 0
    stable: bool = True

    @property
    def times(self) -> list[float]:
        """Seconds of all runs."""
        return sum(self.repeats, [])

    @property
    def median(self) -> float:
        """Median, seconds."""
        return median(self.times)

    @property
    def mean_of_medians(self) -> float:
        """Mean over the batches of the median of each, seconds.

        The median where there is one batch; where images differ in size, what
        a run takes on average.
        """
        return float(np.mean([np.median(t) for t in self._by_batch()]))

    def _by_batch(self) -> list[np.ndarray]:
        times, batches = np.array(self.times), np.array(sum(self.batches, []))
        return [times[batches == batch] for batch in np.unique(batches)]

    @property
    def p95(self) -> float:
        """95th percentile, seconds."""
        return float(np.quantile(self.times, 0.95))

    @property
    def spread(self) -> float | None:
        """Width of the middle 90 % of the times as a share of the median.

        Of the median for the same batch: images of different sizes take
        different times, which is no disturbance. None if a batch was run less
        than three times.
        """
        groups = self._by_batch()
        if min(map(len, groups)) < 3:
            return None
        shares = np.concatenate([t / np.median(t) for t in groups])
        return float(np.subtract(*np.quantile(shares, (0.95, 0.05))))

    def to_dict(self) -> dict[str, Any]:
        """All of it in seconds, for JSON."""
        return dict(
            median=self.median, p95=self.p95, spread=self.spread,
            repeat_medians=[median(times) for times in self.repeats],
            runs=len(self.times), warm_up_runs=self.warm_up_runs,
            stable=self.stable, repeats=self.repeats, batches=self.batches)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> 'Latency':
        """Read what :meth:`to_dict` gave."""
        return cls(saved['repeats'], saved['batches'], saved['warm_up_runs'],
                   saved['stable'])


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done all it was given.

    Args:
        device (torch.device): Nothing is waited for on a CPU.

    Returns:
        Callable: Without arguments.
    """
    if device.type == 'cuda':
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def time_run(run: Callable[[], Any], device: torch.device) -> float:
    """Time one run, which starts on an idle device.

    Args:
        run (Callable): Does the work.
        device (torch.device): Where; on CUDA two events on its stream are
            compared.

    Returns:
        float: Seconds.
    """
    if device.type != 'cuda':
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record(torch.cuda.current_stream(device))
    run()
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def warm_up(clock: Callable[[], float], min_runs: int = 10,
            min_seconds: float = 1.0, max_seconds: float = 20.0,
            tolerance: float = 0.05) -> tuple[int, bool]:
    """Run until the times have settled.

    They have when the median of the last fifth of the runs, three at least,
    is within ``tolerance`` of the median of as many before.

    Args:
        clock (Callable): Runs once and gives the seconds it took.
        min_runs (int): At least so many runs, six at the fewest.
        min_seconds (float): And so long.
        max_seconds (float): Not much longer, settled or not.
        tolerance (float): See above.

    Returns:
        tuple[int, bool]: Number of runs, and whether the times settled.
    """
    times, total = [], 0.
    while True:
        times.append(clock())
        total += times[-1]
        if len(times) < max(min_runs, 6) or total < min_seconds:
            if total >= max_seconds and len(times) >= 6:
                return len(times), False
            continue
        window = max(3, len(times) // 5)
        last = median(times[-window:])
        before = median(times[-2 * window:-window])
        if abs(last - before) <= tolerance * before:
            return len(times), True
        if total >= max_seconds:
            return len(times), False


def turns(count: int, repeats: int, order: str,
          seed: int = 0) -> Iterator[int]:
    """Whose turn it is.

    Args:
        count (int): Number of networks.
        repeats (int): How often each one's turn comes.
        order (str): 'interleaved' (0, 1, 0, 1), 'shuffled' (each round in an
            order of its own) or 'sequential' (0, 0, 1, 1).
        seed (int): Of the shuffling.

    Yields:
        int: A network's number.
    """
    if order == 'sequential':
        yield from (i for i in range(count) for _ in range(repeats))
        return
    shuffle = random.Random(seed).shuffle
    for _ in range(repeats):
        indices = list(range(count))
        if order == 'shuffled':
            shuffle(indices)
        yield from indices


def start_timing(run: Callable[[], Any], device: torch.device,
                 max_warm_up: float = 20.0) -> Latency:
    """Warm a network up.

    Args:
        run (Callable): Runs it once.
        device (torch.device): Where.
        max_warm_up (float): Seconds; see :func:`warm_up`.

    Returns:
        Latency: Without times yet.
    """
    return Latency([], [], *warm_up(lambda: time_run(run, device),
                                    max_seconds=max_warm_up))


def take_turn(latency: Latency, run: Callable[[], Any], device: torch.device,
              seconds: float = 2.0, min_runs: int = 3) -> None:
    """Time a network for a while, and add it as a repeat.

    An untimed run goes before, which finds the caches as another network left
    them. The batches of a network follow each other.

    Args:
        latency (Latency): Gets the times.
        run (Callable): Runs the network once. One that has several batches
            says in ``batch`` which it has run on, and in ``num_batches`` how
            many there are: a turn is a number of rounds.
        device (torch.device): Where.
        seconds (float): Length of the turn.
        min_runs (int): Runs, at least.
    """
    times, batches, total = [], [], 0.
    time_run(run, device)
    round_ = getattr(run, 'num_batches', 1)
    while len(times) < min_runs or total < seconds or len(times) % round_:
        times.append(time_run(run, device))
        total += times[-1]
        batches.append(getattr(run, 'batch', 0))
    latency.repeats.append(times)
    latency.batches.append(batches)


def measure_latency(runs: Sequence[Callable[[], Any]], device: torch.device,
                    repeats: int = 5, seconds: float = 2.0,
                    order: str = 'interleaved', min_runs: int = 3,
                    max_warm_up: float = 20.0,
                    progress: Callable[[], None] = lambda: None
                    ) -> list[Latency]:
    """Time several networks in turns.

    Args:
        runs (Sequence[Callable]): As :func:`take_turn` takes them.
        device (torch.device): Where they run.
        repeats (int): Turns of each.
        seconds (float): Length of a turn.
        order (str): See :func:`turns`.
        min_runs (int): Runs of a turn, at least.
        max_warm_up (float): Seconds; see :func:`warm_up`.
        progress (Callable): Called after each warm-up and each turn.

    Returns:
        list[Latency]: Of each network.
    """
    found = []
    for run in runs:
        found.append(start_timing(run, device, max_warm_up))
        progress()
    for index in turns(len(runs), repeats, order):
        take_turn(found[index], runs[index], device, seconds, min_runs)
        progress()
    return found


def matmul_peak(device: torch.device, dtype: torch.dtype,
                sizes: Sequence[int] | None = None,
                seconds: float = 0.3) -> float:
    """Multiply-adds per second of the fastest matrix product found.

    Measured, so it is what this machine, its library and its clocks do at
    best, not what its data sheet says. On CUDA, TF32 is used if cuDNN's
    convolutions may use it.

    Args:
        device (torch.device): Where.
        dtype (torch.dtype): Of the matrices.
        sizes (Sequence[int], optional): Square matrices that are tried.
        seconds (float): Spent on each, after a first run.

    Returns:
        float: n³ multiply-adds over the fastest time.
    """
    if sizes is None:
        sizes = (4096, 8192) if device.type == 'cuda' else (1024, 2048)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        with torch.inference_mode():
            return max(n**3 / _fastest_matmul(n, device, dtype, seconds)
                       for n in sizes)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32


def _fastest_matmul(n: int, device: torch.device, dtype: torch.dtype,
                    seconds: float) -> float:
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    out = torch.empty_like(a)

    def clock() -> float:
        return time_run(lambda: torch.mm(a, b, out=out), device)

    clock()
    fastest = total = clock()
    while total < seconds:
        took = clock()
        fastest, total = min(fastest, took), total + took
    return fastest
