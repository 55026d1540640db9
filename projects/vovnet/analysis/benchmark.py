"""What several networks cost to run, side by side.

The columns are those of the VoVNet paper's Tables 2 and 4
(arXiv:1904.09730): speed, memory, energy per image, and computation
efficiency, which is multiply-adds over time and which the paper prints as
GFLOP/s. How they are measured is own work, after the advice of Zeus on
energy (ml.energy) and the faults of mmdet 3.3.0's benchmark (read): it runs
on CUDA only, gives one mean, and resets the peak of memory when it prints it.
"""
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from mmengine.config import Config

from ..deploy.modes import MODES, check_mode, obstacle
from ..deploy.optimize import DTYPES
from ..errors import UserError
from ..runtime.devices import find_device
from .complexity import CONVENTION, Cost
from .conditions import conditions
from .energy import (
    Energy,
    find_meter,
    measure_idle,
    measure_window,
    summarise,
)
from .latency import (
    MEASURED,
    ORDERS,
    Latency,
    matmul_peak,
    measure_latency,
    synchronizer,
    turns,
)
from .memory import Memory, measure_memory
from .subject import Input, Subject, subject_cost


@dataclass(frozen=True)
class Entry:
    """A network that takes part.

    Attributes:
        name: For tables and plots.
        cfg: Its config.
        checkpoint: Its weights; random without.
        accuracy: Known from elsewhere, in the unit of the caller's choice.
        paper: What the paper prints of it, by the titles of
            :data:`vovnet.analysis.report.COLUMNS`.
        mode: A name of :data:`vovnet.deploy.modes.MODES`; None runs it as it
            is, in the precision and order of the :class:`Input`.
    """
    name: str
    cfg: Config
    checkpoint: str | None = None
    accuracy: float | None = None
    paper: dict[str, float] = field(default_factory=dict)
    mode: str | None = None


@dataclass(frozen=True)
class Plan:
    """How long and how often is measured.

    Attributes:
        repeats: Turns of each network.
        seconds: Length of a turn.
        order: A name of :data:`vovnet.analysis.latency.ORDERS`.
        max_warm_up: Seconds that the warm-up of a network takes at most.
        max_spread: Above this spread of the latency, or of the energy, a
            result is marked.
        meter: As :func:`vovnet.analysis.energy.find_meter` takes it.
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

    Attributes:
        entry: The network.
        batch_size: Images of a run.
        shapes: Shapes of the input, as (N, C, H, W), with their numbers.
        cost: Of one image; None if the network could not be counted.
        latency: Of one run.
        memory: Peak.
        peak: The machine's fastest matrix product, multiply-adds per second,
            in the network's precision.
        energy: None if there is no meter.
        detections: Boxes per image that NMS left, where there was one.
        max_spread: See :class:`Plan`.
        notes: What else a reader has to know.
        difference: See :class:`vovnet.analysis.subject.Subject`.
        of_first: Its median time as a share of that of the first network.
    """
    entry: Entry
    batch_size: int
    shapes: dict[tuple, int]
    cost: Cost | None
    latency: Latency
    memory: Memory
    peak: float
    energy: Energy | None
    detections: float | None
    max_spread: float
    notes: list[str] = field(default_factory=list)
    difference: float | None = None
    of_first: float = 1.0

    @property
    def fps(self) -> float:
        """Images per second, from the median of the latency.

        Of each batch where there are several, so that images of all sizes
        count.
        """
        return self.batch_size / self.latency.mean_of_medians

    @property
    def efficiency(self) -> float | None:
        """The paper's GFLOP/s: multiply-adds per second."""
        return self.cost and self.cost.macs * self.fps

    @property
    def share(self) -> float | None:
        """Efficiency as a share of the machine's matrix product."""
        return self.cost and self.efficiency / self.peak

    @property
    def input(self) -> str:
        """Height and width, px; of several sizes the extremes."""
        sizes = sorted({shape[2:] for shape in self.shapes},
                       key=lambda size: size[0] * size[1])
        ends = dict.fromkeys((sizes[0], sizes[-1]))
        return ' to '.join('x'.join(map(str, size)) for size in ends)

    @property
    def problems(self) -> list[str]:
        """Why the figures must not be trusted; none if they can be."""
        found = []
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
        if self.cost and self.share > 1:
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
        """All of it, for JSON."""
        return dict(
            name=self.entry.name, config=self.entry.cfg.filename,
            checkpoint=self.entry.checkpoint, mode=self.entry.mode,
            difference=self.difference, of_first=self.of_first,
            accuracy=self.entry.accuracy, paper=self.entry.paper,
            batch_size=self.batch_size,
            shapes=[dict(shape=shape, batches=count)
                    for shape, count in self.shapes.items()],
            **(self.cost._asdict() if self.cost else {}), fps=self.fps,
            latency=self.latency.to_dict(), memory=self.memory.to_dict(),
            energy=self.energy and self.energy.to_dict(),
            multiply_adds_per_second=self.efficiency,
            share_of_matmul_peak=self.share, detections=self.detections,
            problems=self.problems, notes=self.notes)


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
        modes (Sequence[str]): Names of :data:`vovnet.deploy.modes.MODES`, or
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
    device = find_device(how.device, MEASURED)
    reasons = {name: obstacle(name, device) or (
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
    """How often :func:`benchmark` reports progress, without energy.

    Args:
        plan (Plan): The plan.
        count (int): Number of networks.

    Returns:
        int: See above.
    """
    return count * (2 + plan.repeats) + 1


def benchmark(entries: Sequence[Entry], how: Input, plan: Plan,
              progress: Callable[[str, int], None] = lambda *_: None
              ) -> Report:
    """Measure networks side by side.

    Args:
        entries (Sequence[Entry]): The networks. All stay on the device.
        how (Input): What they run on.
        plan (Plan): How long and how often.
        progress (Callable): Called after each step with what comes next, and
            with the number of steps that are to come beyond
            :func:`num_steps`.

    Returns:
        Report: What was found.

    Raises:
        UserError: If a setting measures nothing, the device is not there, or
            a network cannot be built or run.
    """
    check_plan(plan, how)
    device = find_device(how.device, MEASURED)
    meter = find_meter(device, plan.meter)
    if device.type == 'cuda':
        # Only for a fixed shape does cuDNN's search for algorithms pay.
        torch.backends.cudnn.benchmark = how.data is None
    on = conditions(device)
    subjects, memories, costs = [], [], []
    for entry in entries:
        progress(f'building {entry.name}', 0)

        def build(entry: Entry = entry) -> tuple:
            subject = Subject(entry.cfg, how, entry.checkpoint, entry.mode)
            return subject.network, subject.tensors, subject

        memory, subject = measure_memory(build, device)
        if subject.foreign:  # torch does not know what they hold
            memory = replace(memory, tensors=None)
        memories.append(memory)
        subjects.append(subject)
        costs.append(subject_cost(entry.cfg, subject))
    progress("the machine's matrix product", 0)
    peaks = {subject.dtype: [] for subject in subjects}
    measure_peaks(peaks, device)
    latencies = measure_latency(
        subjects, device, plan.repeats, plan.seconds, plan.order,
        max_warm_up=plan.max_warm_up, progress=lambda: progress('latency', 0))
    # Once more: what disturbed the first may have gone.
    measure_peaks(peaks, device)
    energies = ([None] * len(entries) if not meter else _measure_energy(
        subjects, how, plan, meter, device, progress))
    results = [
        Result(entry, how.batch_size, dict(subject.shapes), cost, latency,
               memory, max(peaks[subject.dtype]), energy,
               subject.detections(), plan.max_spread, notes,
               subject.difference, latency.median / latencies[0].median)
        for entry, subject, (cost, notes), latency, memory, energy in zip(
            entries, subjects, costs, latencies, memories, energies)]
    on = dict(_settings(entries, how, plan, peaks), **on)
    return Report(on, results,
                  '' if meter else meter.reason)


def _measure_energy(subjects: Sequence[Subject], how: Input, plan: Plan,
                    meter: Any, device: torch.device,
                    progress: Callable[[str, int], None]) -> list[Energy]:
    progress('energy of the idle device',
             1 + len(subjects) * plan.energy_repeats)
    sync = synchronizer(device)
    sync()
    time.sleep(plan.cool_down)
    idle = measure_idle(meter, plan.energy_seconds)
    windows = [[] for _ in subjects]
    states = [[] for _ in subjects]
    for index in turns(len(subjects), plan.energy_repeats, plan.order):
        progress('energy', 0)
        time.sleep(plan.cool_down)
        subjects[index]()
        states[index].append(meter.state())
        windows[index].append(measure_window(
            meter, subjects[index], how.batch_size, plan.energy_seconds,
            sync))
        # At once, while the clocks are still those of the work.
        states[index].append(meter.state())
    return [summarise(found, idle, meter, state[0], state[-1])
            for found, state in zip(windows, states)]


def measure_peaks(peaks: dict[str, list[float]],
                  device: torch.device) -> None:
    """Measure the machine's matrix product once more in each precision.

    Args:
        peaks (dict[str, list[float]]): By names of
            :data:`vovnet.deploy.optimize.DTYPES`; a figure is added to each.
        device (torch.device): Where.
    """
    for dtype, found in peaks.items():
        found.append(matmul_peak(device, DTYPES[dtype]))


def _settings(entries: Sequence[Entry], how: Input, plan: Plan,
              peaks: dict[str, list[float]]) -> dict[str, Any]:
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
        "machine's matrix product, G multiply-adds/s": ', '.join(
            ' and '.join(f'{peak / 1e9:.1f}' for peak in found) +
            f' ({dtype})' * (len(peaks) > 1)
            for dtype, found in peaks.items()),
    }
