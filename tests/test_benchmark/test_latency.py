"""vovnet.benchmark.latency on scripted clocks, and on real ones."""
import time
from itertools import chain, repeat

import pytest
import torch

from vovnet.benchmark import latency
from vovnet.benchmark.latency import (
    Latency,
    measure_latency,
    measure_matmul_peak,
    schedule_turns,
    time_run,
    warm_up,
)

CPU = torch.device('cpu')


def test_median_p95_and_spread():
    # 1 to 101 ms, in two repeats: percentiles are whole numbers.
    times = [i / 1e3 for i in range(1, 102)]
    found = Latency([times[50:], times[:50]], [[0] * 51, [0] * 50])
    assert found.median == pytest.approx(51e-3)
    assert found.p95 == pytest.approx(96e-3)
    assert found.spread == pytest.approx((96 - 6) / 51)
    said = found.to_dict()
    assert said['repeat_medians'] == pytest.approx([76e-3, 25.5e-3])
    assert said['runs'] == 101


def test_images_of_different_sizes_are_no_disturbance():
    found = Latency([[1., 9., 1., 9.]] * 3, [[0, 1, 0, 1]] * 3)
    assert found.spread == 0
    found.repeats[0] = [4., 36., 4., 36.]  # a repeat four times as slow
    assert found.spread > 1
    # 1 s and 9 s in turns: five on average, whichever came more often.
    assert Latency([[1., 9., 1.]], [[0, 1, 0]]).mean_of_medians == 5


def test_no_spread_of_batches_that_were_run_twice():
    found = Latency([[2.2, 8.6, 7.9], [3.3, 5.5, 5.0]], [[0, 1, 2]] * 2)
    assert found.spread is None


def test_a_turn_is_a_number_of_rounds():
    """All batches are timed equally often, also in the shortest turns."""

    class Run:
        batch, num_batches = -1, 4

        def __call__(self):
            self.batch = (self.batch + 1) % 4

    [found] = measure_latency([Run()], CPU, repeats=3, seconds=0,
                              max_warm_up=0)
    assert [sorted(batches) for batches in found.batches] == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize(('order', 'expected'), [
    ('interleaved', [0, 1, 2, 0, 1, 2]),
    ('sequential', [0, 0, 1, 1, 2, 2]),
])
def test_turns(order, expected):
    assert list(schedule_turns(3, 2, order)) == expected


def test_shuffled_turns():
    found = list(schedule_turns(4, 50, 'shuffled', seed=3))
    rounds = [tuple(found[i:i + 4]) for i in range(0, 200, 4)]
    assert all(sorted(r) == [0, 1, 2, 3] for r in rounds)
    assert len(set(rounds)) > 10
    assert found == list(schedule_turns(4, 50, 'shuffled', seed=3))


def test_warm_up_ends_when_the_times_have_settled():
    script = iter([5., 4., 3., 2.5, 2., 1.8, 1.5, 1.2, 1., 1., 1.02, 1.01,
                   *[1.] * 99])
    runs, stable = warm_up(lambda: next(script), min_runs=6, min_seconds=0,
                           max_seconds=1e9)
    # Three after three differ by less than 5 % for the first time in
    # (1.2, 1, 1), (1.02, 1.01, 1), the 8th to the 13th run.
    assert (runs, stable) == (13, True)


def test_warm_up_gives_up():
    growing = (1.2**i for i in range(1000))
    runs, stable = warm_up(lambda: next(growing), max_seconds=100)
    assert not stable
    assert sum(1.2**i for i in range(runs)) >= 100
    assert sum(1.2**i for i in range(runs - 1)) < 100


def test_warm_up_of_slow_runs_ends_before_the_least_number():
    assert warm_up(lambda: 10., min_runs=50, max_seconds=30) == (6, False)


def test_networks_take_turns(monkeypatch):
    """The machine slows down tenfold half-way: both see it alike."""
    calls, slow = [], iter(chain(repeat(1, 60), repeat(10)))

    class Run:
        def __init__(self, name, seconds):
            self.name, self.seconds, self.batch = name, seconds, 7

        def __call__(self):
            calls.append(self.name)

    runs = Run('a', 1.), Run('b', 2.)

    def time_run(run, device):
        run()
        return run.seconds * next(slow)

    monkeypatch.setattr(latency, 'time_run', time_run)
    steps = []
    found = measure_latency(runs, CPU, repeats=4, seconds=3, min_runs=2,
                            progress=lambda: steps.append(1))
    assert len(steps) == 2 + 2 * 4
    turns_of = [name for i, name in enumerate(calls)
                if i == 0 or calls[i - 1] != name]
    assert turns_of == ['a', 'b'] * 5  # warm-up, then four turns
    for times in found:
        assert len(times.repeats) == 4 and times.stable
        assert all(len(t) >= 2 and sum(t) >= 3 for t in times.repeats)
        assert {b for batch in times.batches for b in batch} == {7}
    timed = sum(len(t) for f in found for t in f.repeats)
    warm = sum(f.warm_up_runs for f in found)
    assert len(calls) == timed + warm + 2 * 4  # one untimed in each turn


class Counted(float):
    """Counts how often it is added."""
    additions = 0

    def __radd__(self, other):
        Counted.additions += 1
        return float(other) + float(self)


@pytest.mark.parametrize('measure', [
    lambda: warm_up(lambda: Counted(0.001), min_seconds=2., max_seconds=2.),
    lambda: measure_latency([lambda: None], CPU, repeats=1, seconds=2.,
                            max_warm_up=0.),
    lambda: latency._time_fastest_matmul(2, CPU, torch.float32, 2.)])
def test_no_time_is_spent_on_sums(measure, monkeypatch):
    """A GPU runs thousands of times in a turn: each time is added once."""
    monkeypatch.setattr(latency, 'time_run', lambda *_: Counted(0.001))
    Counted.additions = 0
    measure()
    assert 1000 < Counted.additions < 3000


def test_real_time():
    [found] = measure_latency([lambda: time.sleep(0.01)], CPU, repeats=2,
                              seconds=0.05, max_warm_up=0.1)
    assert 0.01 <= found.median < 0.1


def test_cuda_events_around_one_run_on_an_idle_device(monkeypatch):
    said = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            said.append(f'record on {stream}')

        def synchronize(self):
            said.append('wait for the event')

        def elapsed_time(self, end):
            assert end is not self
            return 12.5  # milliseconds

    monkeypatch.setattr(torch.cuda, 'Event', Event)
    monkeypatch.setattr(torch.cuda, 'synchronize',
                        lambda device: said.append(f'wait for {device}'))
    monkeypatch.setattr(torch.cuda, 'current_stream',
                        lambda device: f'stream of {device}')
    seconds = time_run(lambda: said.append('run'), torch.device('cuda:1'))
    assert seconds == 0.0125
    assert said == ['wait for cuda:1', 'record on stream of cuda:1', 'run',
                    'record on stream of cuda:1', 'wait for the event']


def test_matmul_peak_counts_multiply_adds(monkeypatch):
    """Scripted clock: 20 ms for 128³, half of it in the third of all runs."""
    sizes, times = [], iter([0.5, 0.02, 0.01, *[0.02] * 98, 0.5, *[1.] * 9])

    def time_run(run, device):
        run()
        return next(times)

    monkeypatch.setattr(latency, 'time_run', time_run)
    monkeypatch.setattr(torch, 'mm', lambda a, b, out: sizes.append(
        (a.shape, b.shape, a.dtype)))
    found = measure_matmul_peak(CPU, torch.bfloat16, [128, 64], seconds=1.9)
    assert found == 128**3 / 0.01
    assert set(sizes) == {((n, n), (n, n), torch.bfloat16) for n in (128, 64)}
