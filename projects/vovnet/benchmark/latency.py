"""Latency of several networks: warm-up, turns, quantiles."""
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

# Types of devices whose time and memory can be measured.
DEVICE_TYPES = 'cpu', 'cuda'
ORDERS = ('interleaved', 'shuffled', 'sequential')


@dataclass
class Latency:
    """Times of the runs of one network.

    Attributes:
        repeats: Seconds of each run, a list for each repeat.
        batches: In the same order, the index of the batch of each run.
        warm_up_runs: Number of untimed runs before.
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
        """Mean of the medians of the batches, seconds.

        The average time of a run where images differ in size.
        """
        return float(np.mean([np.median(t) for t in self._group_by_batch()]))

    def _group_by_batch(self) -> list[np.ndarray]:
        times, batches = np.array(self.times), np.array(sum(self.batches, []))
        return [times[batches == batch] for batch in np.unique(batches)]

    @property
    def p95(self) -> float:
        """95th percentile, seconds."""
        return float(np.quantile(self.times, 0.95))

    @property
    def spread(self) -> float | None:
        """Width of the central 90 % of the times, as a share of the median.

        Each time is compared to the median of its batch, because images of
        different sizes take different times. None if a batch was run less
        than three times.
        """
        groups = self._group_by_batch()
        if min(map(len, groups)) < 3:
            return None
        shares = np.concatenate([t / np.median(t) for t in groups])
        return float(np.subtract(*np.quantile(shares, (0.95, 0.05))))

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON, in seconds."""
        return dict(
            median=self.median, p95=self.p95, spread=self.spread,
            repeat_medians=[median(times) for times in self.repeats],
            runs=len(self.times), warm_up_runs=self.warm_up_runs,
            stable=self.stable, repeats=self.repeats, batches=self.batches)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> 'Latency':
        """Read the result of :meth:`to_dict`."""
        return cls(saved['repeats'], saved['batches'], saved['warm_up_runs'],
                   saved['stable'])


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work; a CPU always has."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def time_run(run: Callable[[], Any], device: torch.device) -> float:
    """Time one run on an idle device, in seconds (CUDA events on a GPU)."""
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

    Args:
        clock: Runs once and returns the seconds it took.
        min_runs: Fewest runs; never below six.
        min_seconds: Shortest total time.
        max_seconds: Total time after which the warm-up ends anyway.
        tolerance: Largest relative difference between the median of the last
            fifth of the runs, or the last three, and that of as many before.

    Returns:
        The number of runs, and whether the times have settled.
    """
    times, total = [], 0.
    while True:
        times.append(clock())
        total += times[-1]
        if len(times) < 6:
            continue
        if len(times) >= min_runs and total >= min_seconds:
            window = max(3, len(times) // 5)
            last = median(times[-window:])
            before = median(times[-2 * window:-window])
            if abs(last - before) <= tolerance * before:
                return len(times), True
        if total >= max_seconds:
            return len(times), False


def schedule_turns(count: int, repeats: int, order: str,
                   seed: int = 0) -> Iterator[int]:
    """Yield the index of the network that runs next.

    Args:
        count: Number of networks.
        repeats: Turns of each.
        order: 'interleaved' (0, 1, 0, 1), 'shuffled' (each round in another
            random order) or 'sequential' (0, 0, 1, 1).
        seed: Of the random orders.
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
    """Warm a network up; the latency has no times yet."""
    return Latency([], [], *warm_up(lambda: time_run(run, device),
                                    max_seconds=max_warm_up))


def take_turn(latency: Latency, run: Callable[[], Any], device: torch.device,
              seconds: float = 2.0, min_runs: int = 3) -> None:
    """Time a network for a while and add the times as a repeat.

    An untimed run comes first, because another network has left its data in
    the caches.

    Args:
        latency: Gets the times.
        run: Runs the network once. If it goes through several batches, its
            attribute ``batch`` is the index of the last one and
            ``num_batches`` their number; each is then timed equally often.
        device: Where it runs.
        seconds: Shortest length of the turn.
        min_runs: Fewest runs.
    """
    times, batches, total = [], [], 0.
    time_run(run, device)
    num_batches = getattr(run, 'num_batches', 1)
    while (len(times) < min_runs or total < seconds
           or len(times) % num_batches):
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

    If the machine slows down, it does so for all of them.

    Args:
        runs: See :func:`take_turn`.
        device: Where they run.
        repeats: Turns of each.
        seconds: Shortest length of a turn.
        order: A name in :data:`ORDERS`.
        min_runs: Fewest runs of a turn.
        max_warm_up: Longest warm-up, seconds.
        progress: Called after each warm-up and each turn.
    """
    latencies = []
    for run in runs:
        latencies.append(start_timing(run, device, max_warm_up))
        progress()
    for index in schedule_turns(len(runs), repeats, order):
        take_turn(latencies[index], runs[index], device, seconds, min_runs)
        progress()
    return latencies


def measure_matmul_peak(device: torch.device, dtype: torch.dtype,
                        sizes: Sequence[int] | None = None,
                        seconds: float = 0.3) -> float:
    """Measure the multiply-adds per second of the fastest matrix product.

    TF32 is used if cuDNN's convolutions may use it.

    Args:
        device: Where it runs.
        dtype: Of the matrices.
        sizes: Heights n of square matrices to try; n³ multiply-adds each.
        seconds: Time for each size, after a first run.
    """
    if sizes is None:
        sizes = (4096, 8192) if device.type == 'cuda' else (1024, 2048)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        with torch.inference_mode():
            return max(n**3 / _time_fastest_matmul(n, device, dtype, seconds)
                       for n in sizes)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32


def _time_fastest_matmul(n: int, device: torch.device, dtype: torch.dtype,
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
