"""What several networks cost to run, side by side.

The columns are those of the VoVNet paper's Tables 2 and 4
(arXiv:1904.09730): speed, memory, energy per image, and computation
efficiency, which is multiply-adds over time and which the paper prints as
GFLOP/s. How they are measured is own work, after the advice of Zeus on
energy (ml.energy) and the faults of mmdet 3.3.0's benchmark (read): it runs
on CUDA only, gives one mean, and resets the peak of memory when it prints it.
"""
import gc
import json
import math
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from mmengine.config import Config

from ..analysis.complexity import CONVENTION, Cost
from ..deploy.optimize.apply import DTYPES
from ..deploy.optimize.modes import MODES, check_mode, find_obstacle
from ..utils.devices import find_device
from ..utils.errors import UserError, explain
from .energy import Energy, measure_idle, measure_window, summarize_energy
from .environment import collect_environment
from .latency import (
    DEVICE_TYPES,
    ORDERS,
    Latency,
    measure_matmul_peak,
    schedule_turns,
    start_timing,
    synchronize,
    take_turn,
)
from .memory import Memory, measure_memory
from .meters import find_meter
from .model import Input, Subject, subject_cost

PEAK = "machine's matrix product, G multiply-adds/s"
# Conditions that may differ between a run and the one that resumes it.
VARYING = ('date', 'load before', 'system', 'repeats',
           'limit of the spread', PEAK)
# Where a GPU works, what else may: its host, of another machine of the kind.
HOST = 'processor', 'cores', 'threads', 'GPU memory, MiB'
KEPT = 'Measured in an earlier run:'


@dataclass(frozen=True)
class Entry:
    """A network that takes part.

    Attributes:
        name: For tables and plots.
        cfg: Its config.
        checkpoint: Its weights; random without.
        accuracy: Known from elsewhere, in the unit of the caller's choice.
        paper: What the paper prints of it, by the titles of
            :data:`vovnet.benchmark.report.COLUMNS`.
        mode: A name of :data:`vovnet.deploy.optimize.modes.MODES`; None runs it as it
            is, in the precision and order of the :class:`Input`.
    """
    name: str
    cfg: Config
    checkpoint: str | None = None
    accuracy: float | None = None
    paper: dict[str, float] = field(default_factory=dict)
    mode: str | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What tells it from others in a file of results."""
        model = json.dumps(self.cfg.to_dict().get('model'), default=str,
                           sort_keys=True)
        return dict(name=self.name, checkpoint=self.checkpoint,
                    mode=self.mode,
                    model_crc32=zlib.crc32(model.encode()))


@dataclass(frozen=True)
class Plan:
    """How long and how often is measured.

    Attributes:
        repeats: Turns of each network.
        seconds: Length of a turn.
        order: A name of :data:`vovnet.benchmark.latency.ORDERS`.
        max_warm_up: Seconds that the warm-up of a network takes at most.
        max_spread: Above this spread of the latency, or of the energy, a
            result is marked.
        meter: As :func:`vovnet.benchmark.meters.find_meter` takes it.
        energy_repeats: Windows of each network in which energy is measured.
        energy_seconds: Length of such a window, and of that in which the
            device idles.
        cool_down: Seconds of rest before each window: a hot chip draws more.
    """
    repeats: int = 5
    seconds: float = 2.0
    order: str = 'interleaved'
    max_warm_up: float = 20.0
    max_spread: float = 0.2
    meter: str = 'auto'
    energy_repeats: int = 5
    energy_seconds: float = 10.0
    cool_down: float = 5.0


@dataclass
class Result:
    """What was found about one network. The device is that of all.

    What has not been measured yet is None.

    Attributes:
        entry: The network.
        batch_size: Images of a run.
        shapes: Shapes of the input, as (N, C, H, W), with their numbers.
        cost: Of one image; None also if the network cannot be counted.
        latency: Of one run.
        memory: Peak.
        peak: The machine's fastest matrix product, multiply-adds per second,
            in the network's precision.
        energy: None also if there is no meter.
        detections: Boxes per image that NMS left, where there was one.
        max_spread: See :class:`Plan`.
        notes: What else a reader has to know.
        difference: See :class:`vovnet.benchmark.model.Subject`.
        of_first: Its median time as a share of that of the first network.
        failure: Why there is no more; '' if nothing failed.
    """
    entry: Entry
    batch_size: int
    shapes: dict[tuple, int] = field(default_factory=dict)
    cost: Cost | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    peak: float | None = None
    energy: Energy | None = None
    detections: float | None = None
    max_spread: float = math.inf
    notes: list[str] = field(default_factory=list)
    difference: float | None = None
    of_first: float | None = None
    failure: str = ''

    def is_timed(self, plan: Plan) -> bool:
        """Whether it had all of its turns."""
        return bool(self.latency) and len(
            self.latency.repeats) >= plan.repeats

    def missing_windows(self, plan: Plan) -> int:
        """How many windows of energy are to come."""
        return max(0, plan.energy_repeats - (
            len(self.energy.windows) if self.energy else 0))

    @property
    def fps(self) -> float | None:
        """Images per second, from the median of the latency.

        Of each batch where there are several, so that images of all sizes
        count.
        """
        return self.latency and self.batch_size / self.latency.mean_of_medians

    @property
    def efficiency(self) -> float | None:
        """The paper's GFLOP/s: multiply-adds per second."""
        return self.cost and self.latency and self.cost.macs * self.fps

    @property
    def share(self) -> float | None:
        """Efficiency as a share of the machine's matrix product."""
        return self.efficiency and self.peak and self.efficiency / self.peak

    @property
    def input(self) -> str:
        """Height and width, px; of several sizes the extremes."""
        sizes = sorted({shape[2:] for shape in self.shapes},
                       key=lambda size: size[0] * size[1])
        if not sizes:
            return 'n/a'
        ends = dict.fromkeys((sizes[0], sizes[-1]))
        return ' to '.join('x'.join(map(str, size)) for size in ends)

    @property
    def problems(self) -> list[str]:
        """Why the figures must not be trusted; none if they can be."""
        found = []
        if self.failure:
            found.append(f'failed: {self.failure}')
        if self.latency is None:
            return found or ['not measured yet']
        if self.latency.spread is None:
            found.append('its spread is not known: some batch was run less '
                         'than 3 times; raise --repeats or --seconds')
        elif self.latency.spread > self.max_spread:
            found.append(
                f'the times differ by {self.latency.spread:.0%} (limit '
                f'{self.max_spread:.0%}): something disturbed them, measure '
                'again on an idle machine')
        if not self.latency.stable:
            found.append('the times had not settled when the warm-up ended; '
                         'raise --max-warm-up')
        if (self.share or 0) > 1:
            found.append("more than the machine's matrix product does, which "
                         'something disturbed: its peak is too low')
        if self.energy is not None:
            found += self.energy.problems
            if (self.energy.spread or 0) > self.max_spread:
                found.append(
                    f'the windows differ by {self.energy.spread:.0%} in '
                    f'energy (limit {self.max_spread:.0%}): something '
                    'disturbed them')
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON and :meth:`from_dict`."""
        return dict(
            **self.entry.identity, config=self.entry.cfg.filename,
            difference=self.difference,
            of_first=self.of_first, accuracy=self.entry.accuracy,
            paper=self.entry.paper, batch_size=self.batch_size,
            shapes=[dict(shape=shape, batches=count)
                    for shape, count in self.shapes.items()],
            **(self.cost._asdict() if self.cost else {}), fps=self.fps,
            latency=self.latency and self.latency.to_dict(),
            memory=self.memory and self.memory.to_dict(),
            matmul_peak=self.peak,
            energy=self.energy and self.energy.to_dict(),
            multiply_adds_per_second=self.efficiency,
            share_of_matmul_peak=self.share, detections=self.detections,
            failure=self.failure, problems=self.problems, notes=self.notes)

    @classmethod
    def from_dict(cls, entry: Entry, saved: dict[str, Any],
                  max_spread: float) -> 'Result':
        """Read what :meth:`to_dict` gave.

        Args:
            entry (Entry): The network.
            saved (dict): From JSON.
            max_spread (float): See :class:`Plan`.

        Returns:
            Result: What it was, but for this limit.
        """
        return cls(
            entry, saved['batch_size'],
            {tuple(one['shape']): one['batches'] for one in saved['shapes']},
            Cost(*(saved[name] for name in Cost._fields))
            if 'macs' in saved else None,
            saved['latency'] and Latency.from_dict(saved['latency']),
            saved['memory'] and Memory(**saved['memory']),
            saved['matmul_peak'],
            saved['energy'] and Energy.from_dict(saved['energy']),
            saved['detections'], max_spread, saved['notes'],
            saved['difference'], saved['of_first'], saved['failure'])


@dataclass
class Report:
    """Results, and what they were measured on.

    Attributes:
        conditions: Of all results.
        results: In the order of the entries.
        no_energy: Why there is no energy; '' if there is.
        notes: What else a reader has to know.
    """
    conditions: dict[str, Any]
    results: list[Result]
    no_energy: str = ''
    notes: list[str] = field(default_factory=list)

    def compare(self) -> None:
        """Set each time as a share of the first network's."""
        first = self.results[0].latency
        for result in self.results:
            result.of_first = (first and result.latency and
                               result.latency.median / first.median)

    def take_over(self, saved: dict[str, Any]) -> None:
        """Keep what an earlier run found, on the same machine.

        Args:
            saved (dict): What :meth:`to_dict` gave then.

        Raises:
            UserError: If the conditions were others.
        """
        before = saved['conditions']
        varying = VARYING + HOST * ('GPU' in self.conditions)
        for key, value in self.conditions.items():
            if key not in varying and before.get(key) != value:
                raise UserError(
                    f'--resume: what is there was measured with {key}: '
                    f'{before.get(key)}, and this is {value}; choose another '
                    '--out, or leave --resume out')
        known = {json.dumps({key: one[key] for key in self.results[
            0].entry.identity}): one for one in saved['results']}
        kept = []
        for number, result in enumerate(self.results):
            if one := known.get(json.dumps(result.entry.identity)):
                self.results[number] = found = Result.from_dict(
                    result.entry, one, result.max_spread)
                if found.latency:
                    kept.append(found.entry.name)
        self.notes += [note for note in saved['notes']
                       if note.startswith(KEPT)]
        if kept:
            self.conditions[PEAK] = before.get(PEAK, 'not measured')
            self.notes.append(f'{KEPT} {", ".join(kept)}, on '
                              f'{before["date"]}.')

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; units are SI's."""
        return dict(
            convention=CONVENTION, conditions=self.conditions,
            no_energy=self.no_energy, notes=self.notes,
            results=[result.to_dict() for result in self.results])


def check_plan(plan: Plan, how: Input) -> None:
    """Refuse settings that measure nothing.

    Args:
        plan (Plan): The plan.
        how (Input): The input.

    Raises:
        UserError: Naming the option.
    """
    for option, value, least in (
            ('--repeats', plan.repeats, 1), ('--seconds', plan.seconds, 0),
            ('--energy-repeats', plan.energy_repeats, 1),
            ('--energy-seconds', plan.energy_seconds, 1),
            ('--cool-down', plan.cool_down, 0),
            ('--max-warm-up', plan.max_warm_up, 0),
            ('--max-spread', plan.max_spread, 0),
            ('--batch-size', how.batch_size, 1),
            ('--num-images', how.num_images, 1)):
        if not least <= value < math.inf:
            raise UserError(f'{option} {value}: give at least {least}')
    if plan.order not in ORDERS:
        raise UserError(f'--order {plan.order}: give one of '
                        f'{", ".join(ORDERS)}')


def in_modes(entries: Sequence[Entry], how: Input, modes: Sequence[str]
             ) -> tuple[list[Entry], list[str]]:
    """Let each network take part once in each mode.

    Args:
        entries (Sequence[Entry]): The networks.
        how (Input): What they run on.
        modes (Sequence[str]): Names of :data:`vovnet.deploy.optimize.modes.MODES`, or
            'auto' alone for all that can be used here.

    Returns:
        tuple: The entries, those of a network together, and which modes
        'auto' leaves out, with the reasons.

    Raises:
        UserError: If a mode that is asked for cannot be used here, or the
            input sets what modes set.
    """
    if how.dtype != 'fp32' or how.channels_last:
        raise UserError('--dtype, --channels-last: leave them out with '
                        '--optimize, whose modes set them')
    device = find_device(how.device, DEVICE_TYPES)
    reasons = {name: find_obstacle(name, device) or (
        'decodes no boxes; use --nms out or --part backbone'
        if mode.runtime and how.part == 'detector' and how.nms else None)
        for name, mode in MODES.items()}
    if list(modes) == ['auto']:
        modes = [name for name in MODES if not reasons[name]]
        left = [f'{name}: not tried, {reason}.'
                for name, reason in reasons.items() if reason]
    else:
        left = []
        for name in modes:
            check_mode(name, device)
            if reasons[name]:
                raise UserError(f'mode {name}: {reasons[name]}')
    return [replace(entry, name=f'{entry.name}, {name}', mode=name)
            for entry in entries for name in modes], left


def num_steps(plan: Plan, count: int) -> int:
    """How often :func:`benchmark_inference` reports progress, without energy.

    Args:
        plan (Plan): The plan.
        count (int): Number of networks.

    Returns:
        int: See above.
    """
    return count * (2 + plan.repeats) + 1


def benchmark_inference(entries: Sequence[Entry], how: Input, plan: Plan,
              progress: Callable[[str, int], None] = lambda *_: None,
              save: Callable[[Report], None] = lambda _: None,
              saved: dict[str, Any] | None = None,
              left: Sequence[str] = ()) -> Report:
    """Measure networks side by side.

    A network that fails is taken out, and the others go on.

    Args:
        entries (Sequence[Entry]): The networks. All stay on the device.
        how (Input): What they run on.
        plan (Plan): How long and how often.
        progress (Callable): Called before each step with what comes next, and
            with the number of steps that are to come beyond
            :func:`num_steps`.
        save (Callable): Called after each network, each of its turns and each
            window of energy with what there is.
        saved (dict, optional): What :meth:`Report.to_dict` gave of an earlier
            run. What it has is not measured again.
        left (Sequence[str]): Notes for the report.

    Returns:
        Report: What was found.

    Raises:
        UserError: If a setting measures nothing, the device is not there,
            ``saved`` is of other conditions, or all networks failed.
    """
    check_plan(plan, how)
    device = find_device(how.device, DEVICE_TYPES)
    meter = find_meter(device, plan.meter)
    if device.type == 'cuda':
        # Only for a fixed shape does cuDNN's search for algorithms pay.
        torch.backends.cudnn.benchmark = how.data is None
    report = Report(
        dict(_settings(entries, how, plan), **collect_environment(device)),
        [Result(entry, how.batch_size, max_spread=plan.max_spread)
         for entry in entries], '' if meter else meter.reason, [*left])
    if saved:
        report.take_over(saved)
    _Benchmark(report, how, plan, device, meter, progress, save).run()
    return report


class _Benchmark:
    """The steps of :func:`benchmark_inference`, each of which may fail for a network."""

    def __init__(self, report: Report, how: Input, plan: Plan,
                 device: torch.device, meter: Any, progress: Callable,
                 save: Callable) -> None:
        self.report, self.results = report, report.results
        self.how, self.plan = how, plan
        self.device, self.meter = device, meter
        self.progress, self.save = progress, save
        self.subjects: dict[int, Subject] = {}
        self.peaks: dict[str, list[float]] = {}
        self.costs: dict[tuple, tuple] = {}  # the same in all modes

    def run(self) -> None:
        """Measure what the results do not have yet."""
        plan, numbers = self.plan, range(len(self.results))
        untimed = [i for i in numbers if not self.results[i].is_timed(plan)]
        windows = {i: self.results[i].missing_windows(plan) if self.meter
                   else 0 for i in numbers}
        for number in numbers:
            if number in untimed or windows[number]:
                self._step(number, 'building', self._build)
        if untimed:
            self._time([i for i in untimed if i in self.subjects])
        if any(windows[i] for i in self.subjects):
            self._measure_energy(windows)
        if all(result.failure for result in self.results):
            raise UserError('; '.join(
                f'{result.entry.name}: {result.failure}'
                for result in self.results))

    def _step(self, number: int, what: str,
              step: Callable[[int], None]) -> None:
        """Take a step of a network that has not failed, and save."""
        result = self.results[number]
        self.progress(f'{what} {result.entry.name}', 0)
        if result.failure and what != 'building':
            return
        is_lost = False
        try:
            result.failure = ''
            step(number)
        except Exception as error:  # the network's, whatever it is
            result.failure = _explain(error)
            is_lost = any(isinstance(one, torch.AcceleratorError)
                          for one in (error, error.__cause__))
        if result.failure:
            self.subjects.pop(number, None)
            gc.collect()
            if self.device.type == 'cuda' and not is_lost:
                torch.cuda.empty_cache()
        self.report.compare()
        self.save(self.report)
        if result.failure and is_lost:
            raise UserError(
                f'{result.entry.name}: {result.failure}; {self.device} cannot '
                'be used any longer by this process, run again with --resume')

    def _build(self, number: int) -> None:
        result = self.results[number]
        entry = result.entry

        def build() -> tuple:
            subject = Subject(entry.cfg, self.how, entry.checkpoint,
                              entry.mode)
            return subject.network, subject.tensors, subject

        memory, subject = measure_memory(build, self.device)
        if subject.foreign:  # torch does not know what they hold
            memory = replace(memory, tensors=None)
        counted = id(entry.cfg), *subject.shapes
        if counted not in self.costs:
            self.costs[counted] = subject_cost(entry.cfg, subject)
        cost, notes = self.costs[counted]
        result.shapes, result.memory = dict(subject.shapes), memory
        result.cost, result.notes = cost, [*notes]
        result.difference = subject.difference
        result.detections = subject.detections()
        self.subjects[number] = subject

    def _time(self, numbers: list[int]) -> None:
        """Time networks in turns, between two looks at the machine's best."""
        plan, device = self.plan, self.device
        self.progress("the machine's matrix product", 0)
        self._measure_peaks(numbers)

        started = {}

        def warm(number: int) -> None:
            new = start_timing(self.subjects[number], device,
                               plan.max_warm_up)
            # The turns that an earlier run has taken stay.
            started[number] = self.results[number].latency or new

        def turn(number: int) -> None:
            take_turn(started[number], self.subjects[number], device,
                      plan.seconds)
            self.results[number].latency = started[number]

        for number in numbers:
            self._step(number, 'warming up', warm)
        for index in schedule_turns(len(numbers), plan.repeats, plan.order):
            number = numbers[index]
            if not self.results[number].is_timed(plan):
                self._step(number, 'timing', turn)
        # Once more: what disturbed the first may have gone.
        self._measure_peaks(numbers)
        self.save(self.report)

    def _measure_peaks(self, numbers: list[int]) -> None:
        timed = [i for i in numbers if i in self.subjects]
        peaks = self.peaks
        for dtype in dict.fromkeys(self.subjects[i].dtype for i in timed):
            peaks.setdefault(dtype, []).append(
                measure_matmul_peak(self.device, DTYPES[dtype]))
        for number in timed:
            self.results[number].peak = max(
                peaks[self.subjects[number].dtype])
        self.report.conditions[PEAK] = ', '.join(
            ' and '.join(f'{peak / 1e9:.1f}' for peak in found) +
            f' ({dtype})' * (len(peaks) > 1)
            for dtype, found in peaks.items())

    def _measure_energy(self, windows: dict[int, int]) -> None:
        """Measure windows of work in turns, after one without work."""
        plan, meter, numbers = self.plan, self.meter, sorted(self.subjects)
        self.progress('energy of the idle device',
                      1 + sum(windows[i] for i in numbers))
        sync = partial(synchronize, self.device)
        sync()
        time.sleep(plan.cool_down)
        idle = measure_idle(meter, plan.energy_seconds)

        def window(number: int) -> None:
            subject, energy = self.subjects[number], self.results[
                number].energy
            time.sleep(plan.cool_down)
            subject()
            before = meter.state()
            found = measure_window(meter, subject, self.how.batch_size,
                                   plan.energy_seconds, sync)
            # At once, while the clocks are still those of the work.
            after = meter.state()
            self.results[number].energy = summarize_energy(
                [*(energy.windows if energy else ()), found], idle, meter,
                energy.before if energy else before, after)

        for index in schedule_turns(len(numbers), max(windows.values()),
                                    plan.order):
            number = numbers[index]
            if windows[number]:
                windows[number] -= 1
                self._step(number, 'energy of', window)


def _explain(error: Exception) -> str:
    """Why a network failed, in a line; a bug also with its traceback."""
    if isinstance(error, torch.OutOfMemoryError):
        reason = str(error).split('. ')[0]
        return f'{reason}; lower --batch-size or --shape'
    if not (line := explain(error)):
        traceback.print_exc()
        line = f'{type(error).__name__}: {error}'.split('\n')[0]
    return line


def _settings(entries: Sequence[Entry], how: Input, plan: Plan
              ) -> dict[str, Any]:
    """What was chosen, in words."""
    shape = ('x'.join(map(str, how.shape)) if how.shape else
             "the config's test size")
    tf32 = (', TF32 in convolutions' if how.device.startswith('cuda')
            and torch.backends.cudnn.allow_tf32 else '')
    converted = ('weights and input' if how.part == 'backbone' else
                 'autocast') if how.dtype != 'fp32' else 'as built' + tf32
    modes = any(entry.mode for entry in entries)
    return {
        'date': time.strftime('%Y-%m-%d'),
        'timed': how.work,
        'input': (f'noise of {shape} px' if how.data is None else
                  f'{how.data}, prepared before'),
        'batch': how.batch_size,
        'device': how.device,
        'dtype': ("each mode's" if modes else
                  f'{how.dtype} ({converted})'),
        'memory format': ("each mode's" if modes else 'channels last'
                          if how.channels_last else 'contiguous'),
        'repeats': (f'{plan.repeats} of {plan.seconds:g} s, {plan.order}, '
                    'after a warm-up until stable'),
        'limit of the spread': plan.max_spread,
    }
