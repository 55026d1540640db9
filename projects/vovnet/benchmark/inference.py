"""Speed, memory, energy and computation of several networks, side by side.

The columns are those of the VoVNet paper's Tables 2 and 4
(arXiv:1904.09730): speed, memory, energy per image, and computation
efficiency, which is multiply-adds over time and which the paper prints as
GFLOP/s.
"""
import gc
import json
import math
import time
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from mmengine.config import Config

from ..analysis.complexity import CONVENTION, Cost, compute_mean_cost
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
from .model import BenchmarkModel, InputConfig

PEAK = "machine's matrix product, G multiply-adds/s"
# Conditions that may differ between a run and the one that resumes it.
VARYING = ('date', 'load before', 'system', 'repeats',
           'limit of the spread', PEAK)
# And where a GPU works: its host may be another machine of the kind.
HOST = 'processor', 'cores', 'threads', 'GPU memory, MiB'
KEPT = 'Measured in an earlier run:'


@dataclass(frozen=True)
class BenchmarkEntry:
    """A network to be measured.

    Attributes:
        checkpoint: Its weights; random without.
        accuracy: Known from elsewhere, in the unit of the caller's choice.
        paper: What the paper prints of it, by the titles of
            :data:`vovnet.benchmark.report.COLUMNS`.
        mode: A name of :data:`vovnet.deploy.optimize.modes.MODES`; None runs
            it as it is, in the precision and memory order of the input.
    """
    name: str
    cfg: Config
    checkpoint: str | None = None
    accuracy: float | None = None
    paper: dict[str, float] = field(default_factory=dict)
    mode: str | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What distinguishes it from others in a file of results."""
        model = json.dumps(self.cfg.to_dict().get('model'), default=str,
                           sort_keys=True)
        return dict(name=self.name, checkpoint=self.checkpoint,
                    mode=self.mode,
                    model_crc32=zlib.crc32(model.encode()))


@dataclass(frozen=True)
class Plan:
    """How long and how often networks are measured.

    Attributes:
        repeats: Turns of each network.
        seconds: Length of a turn.
        order: A name of :data:`vovnet.benchmark.latency.ORDERS`.
        max_warm_up: Longest warm-up of a network, seconds.
        max_spread: Above this spread of the latency, or of the energy, a
            result is marked.
        meter: As :func:`vovnet.benchmark.meters.find_meter` takes it.
        energy_repeats: Windows of each network in which energy is measured.
        energy_seconds: Length of a window, and of that of the idle device.
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


@dataclass(eq=False)
class Result:
    """Measurements of one network; None where not measured yet.

    Attributes:
        shapes: How many batches there are of each (N, C, H, W).
        cost: Of one image; None also if the network cannot be counted.
        peak: Multiply-adds per second of the machine's fastest matrix
            product, in the network's precision.
        energy: None also without a meter.
        detections: Boxes per image that NMS left, if there was one.
        max_spread: As in :class:`Plan`.
        difference: As in :class:`vovnet.benchmark.model.BenchmarkModel`.
        failure: Why there is no more; '' if nothing failed.
    """
    entry: BenchmarkEntry
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
    failure: str = ''

    def is_timed(self, plan: Plan) -> bool:
        """Return whether the network had all of its turns."""
        return bool(self.latency) and len(
            self.latency.repeats) >= plan.repeats

    def count_missing_windows(self, plan: Plan) -> int:
        """Return how many windows of energy are still to be measured."""
        return max(0, plan.energy_repeats - (
            len(self.energy.windows) if self.energy else 0))

    def compute_rates(self) -> dict[str, float | None]:
        """Return images and multiply-adds per second, by their JSON names.

        From the mean of the batches' medians; also the multiply-adds as a
        share of the machine's matrix product.
        """
        fps = self.latency and self.batch_size / self.latency.mean_of_medians
        efficiency = self.cost and fps and self.cost.macs * fps
        share = efficiency and self.peak and efficiency / self.peak
        return dict(fps=fps, multiply_adds_per_second=efficiency,
                    share_of_matmul_peak=share)

    @property
    def problems(self) -> list[str]:
        """Reasons why the figures must not be trusted."""
        found = []
        if self.failure:
            found.append(f'failed: {self.failure}')
        if self.latency is None:
            return found or ['not measured yet']
        share = self.compute_rates()['share_of_matmul_peak']
        spread, limit = self.latency.spread, self.max_spread
        if spread is None:
            found.append('its spread is unknown: some batch was run less than '
                         '3 times; raise --repeats or --seconds')
        elif spread > limit:
            found.append(
                f'the times differ by {spread:.0%} (limit {limit:.0%}): '
                'something disturbed them; measure again on an idle machine')
        if not self.latency.stable:
            found.append('the times had not settled when the warm-up ended; '
                         'raise --max-warm-up')
        if share and share > 1:
            found.append("more than the machine's matrix product does, which "
                         'something disturbed: its peak is too low')
        if self.energy is not None:
            found += self.energy.problems
            if (self.energy.spread or 0) > limit:
                found.append(
                    f'the windows differ by {self.energy.spread:.0%} in '
                    f'energy (limit {limit:.0%}): something disturbed them')
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON and :meth:`from_dict`."""
        return dict(
            **self.entry.identity, config=self.entry.cfg.filename,
            difference=self.difference, accuracy=self.entry.accuracy,
            paper=self.entry.paper, batch_size=self.batch_size,
            shapes=[dict(shape=shape, batches=count)
                    for shape, count in self.shapes.items()],
            **(self.cost._asdict() if self.cost else {}),
            problems=self.problems, **self.compute_rates(),
            latency=self.latency and self.latency.to_dict(),
            memory=self.memory and self.memory.to_dict(),
            matmul_peak=self.peak,
            energy=self.energy and self.energy.to_dict(),
            detections=self.detections, failure=self.failure,
            notes=self.notes)

    @classmethod
    def from_dict(cls, entry: BenchmarkEntry, saved: Mapping[str, Any],
                  max_spread: float) -> 'Result':
        """Restore what :meth:`to_dict` returned, with another limit."""
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
            saved['difference'], saved['failure'])


@dataclass
class Report:
    """Results, and the conditions of all of them.

    ``no_energy`` is why there is no energy, or ''.
    """
    conditions: dict[str, Any]
    results: list[Result]
    no_energy: str = ''
    notes: list[str] = field(default_factory=list)

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Keep what :meth:`to_dict` returned in an earlier run.

        Raises:
            UserError: If the conditions were others.
        """
        before = saved['conditions']
        varying = VARYING + HOST * ('GPU' in self.conditions)
        for key, value in self.conditions.items():
            if key not in varying and before.get(key) != value:
                raise UserError(
                    f'--resume: the saved results were measured with {key}: '
                    f'{before.get(key)}, and this is {value}; choose another '
                    '--out, or leave --resume out')
        kept = []
        for number, result in enumerate(self.results):
            entry = result.entry
            found = next((one for one in saved['results'] if
                          entry.identity.items() <= one.items()), None)
            if found:
                self.results[number] = Result.from_dict(
                    entry, found, result.max_spread)
                if found['latency']:
                    kept.append(entry.name)
        self.notes += [note for note in saved['notes']
                       if note.startswith(KEPT)]
        if kept:
            self.conditions[PEAK] = before.get(PEAK, 'not measured')
            self.notes.append(f'{KEPT} {", ".join(kept)}, on '
                              f'{before["date"]}.')

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, for tables and JSON; units are SI's.

        ``of_first`` is the median time as a share of the first network's.
        """
        results = [result.to_dict() for result in self.results]
        first = results[0]['latency']
        for result in results:
            result['of_first'] = (
                first and result['latency']
                and result['latency']['median'] / first['median'])
        return dict(
            convention=CONVENTION, conditions=self.conditions,
            no_energy=self.no_energy, notes=self.notes, results=results)


def check_plan(plan: Plan, inputs: InputConfig) -> None:
    """Raise a UserError, which names the option, for wrong values."""
    for option, value, least in (
            ('--repeats', plan.repeats, 1), ('--seconds', plan.seconds, 0),
            ('--energy-repeats', plan.energy_repeats, 1),
            ('--energy-seconds', plan.energy_seconds, 1),
            ('--cool-down', plan.cool_down, 0),
            ('--max-warm-up', plan.max_warm_up, 0),
            ('--max-spread', plan.max_spread, 0),
            ('--batch-size', inputs.batch_size, 1),
            ('--num-images', inputs.num_images, 1)):
        if not least <= value < math.inf:
            raise UserError(f'{option} {value}: give at least {least}')
    if plan.order not in ORDERS:
        raise UserError(f'--order {plan.order}: give one of '
                        f'{", ".join(ORDERS)}')


def expand_modes(entries: Sequence[BenchmarkEntry], inputs: InputConfig,
                 modes: Sequence[str]
                 ) -> tuple[list[BenchmarkEntry], list[str]]:
    """Return an entry for each network in each mode, and notes.

    The mode 'auto' stands for all that can be used here; the notes say why
    it leaves the others out.

    Raises:
        UserError: If a mode that is asked for cannot be used here, or the
            input sets what modes set.
    """
    if inputs.dtype != 'fp32' or inputs.channels_last:
        raise UserError('--dtype, --channels-last: leave them out with '
                        '--optimize, whose modes set them')
    device = find_device(inputs.device, DEVICE_TYPES)
    decodes = inputs.part == 'detector' and inputs.nms
    obstacles = {name: find_obstacle(name, device) or (
        'decodes no boxes; use --nms out or --part backbone'
        if mode.runtime and decodes else None) for name, mode in MODES.items()}
    notes = []
    if list(modes) == ['auto']:
        modes = [name for name in MODES if not obstacles[name]]
        notes = [f'{name}: not tried, {obstacle}.'
                 for name, obstacle in obstacles.items() if obstacle]
    for name in modes:
        check_mode(name, device)
        if obstacles[name]:
            raise UserError(f'mode {name}: {obstacles[name]}')
    return [replace(entry, name=f'{entry.name}, {name}', mode=name)
            for entry in entries for name in modes], notes


def count_steps(plan: Plan, count: int) -> int:
    """Return how often ``count`` networks report progress, without energy."""
    return count * (2 + plan.repeats) + 1


def benchmark_inference(entries: Sequence[BenchmarkEntry],
                        inputs: InputConfig, plan: Plan,
                        progress: Callable[[str, int], None] = lambda *_: None,
                        save: Callable[[Report], None] = lambda _: None,
                        saved: Mapping[str, Any] | None = None,
                        notes: Sequence[str] = ()) -> Report:
    """Measure networks side by side.

    All networks stay on the device. One that fails is taken out, and the
    others go on.

    Args:
        entries: The networks.
        inputs: What they run on.
        plan: How long and how often they run.
        progress: Called before each step with what comes next, and with the
            number of steps that are to come beyond :func:`count_steps`.
        save: Called with the report so far after each network, each of its
            turns and each window of energy.
        saved: What :meth:`Report.to_dict` returned in an earlier run, which
            is not measured again.
        notes: For the report.

    Raises:
        UserError: If a setting is wrong, the device cannot be used, ``saved``
            is of other conditions, or all networks failed.
    """
    check_plan(plan, inputs)
    settings = _describe_settings(entries, inputs, plan)
    device = find_device(inputs.device, DEVICE_TYPES)
    meter = find_meter(device, plan.meter)
    no_energy = '' if meter else meter.reason
    if device.type == 'cuda':
        # Only for a fixed shape does cuDNN's search for algorithms pay.
        torch.backends.cudnn.benchmark = inputs.data is None
    report = Report(
        {**settings, **collect_environment(device)},
        [Result(entry, inputs.batch_size, max_spread=plan.max_spread)
         for entry in entries], no_energy, [*notes])
    if saved:
        report.resume(saved)
    _Benchmark(report, inputs, plan, device, None if no_energy else meter,
               progress, save).run()
    return report


class _Benchmark:
    """The steps of a benchmark, each of which may fail for a network."""

    def __init__(self, report: Report, inputs: InputConfig, plan: Plan,
                 device: torch.device, meter: Any, progress: Callable,
                 save: Callable) -> None:
        self.report, self.inputs, self.plan = report, inputs, plan
        self.device, self.meter = device, meter
        self.progress, self.save = progress, save
        self.models: dict[Result, BenchmarkModel] = {}
        self.peaks: dict[str, list[float]] = {}
        self.costs: dict[tuple, tuple] = {}  # equal in all modes

    def run(self) -> None:
        """Measure what the results do not have yet."""
        results, plan = self.report.results, self.plan
        untimed = [r for r in results if not r.is_timed(plan)]
        windows = {r: r.count_missing_windows(plan) if self.meter else 0
                   for r in results}
        for result in results:
            if result in untimed or windows[result]:
                self._step(result, 'building', self._build)
        if untimed:
            self._time([r for r in untimed if r in self.models])
        if any(windows[r] for r in self.models):
            self._measure_energy(windows)
        if all(r.failure for r in results):
            raise UserError('; '.join(f'{r.entry.name}: {r.failure}'
                                      for r in results))

    def _step(self, result: Result, what: str,
              step: Callable[[Result], None]) -> None:
        """Take a step of a network that has not failed, and save."""
        self.progress(f'{what} {result.entry.name}', 0)
        if result.failure and what != 'building':
            return
        is_lost = False
        try:
            result.failure = ''
            step(result)
        except Exception as error:  # the network's, whatever it is
            result.failure = _explain(error)
            is_lost = any(isinstance(one, torch.AcceleratorError)
                          for one in (error, error.__cause__))
        if result.failure:
            self.models.pop(result, None)
            gc.collect()
            if self.device.type == 'cuda' and not is_lost:
                torch.cuda.empty_cache()
        self.save(self.report)
        if is_lost:
            raise UserError(
                f'{result.entry.name}: {result.failure}; {self.device} cannot '
                'be used any longer by this process, run again with --resume')

    def _build(self, result: Result) -> None:
        entry = result.entry

        def build() -> tuple:
            self.models[result] = model = BenchmarkModel(
                entry.cfg, self.inputs, entry.checkpoint, entry.mode)
            return model.network, model.tensors, model.run

        memory, _ = measure_memory(build, self.device)
        model = self.models[result]
        if model.foreign:  # torch does not know what they hold
            memory = replace(memory, tensors=None)
        result.shapes, result.memory = dict(model.shapes), memory
        result.difference = model.difference
        result.detections = model.count_detections()
        counted = id(entry.cfg), *result.shapes
        if counted not in self.costs:
            self.costs[counted] = compute_mean_cost(
                entry.cfg, result.shapes, self.inputs.part)
        result.cost, notes = self.costs[counted]
        result.notes = [*notes]

    def _time(self, results: list[Result]) -> None:
        """Time networks in turns, between two looks at the machine's best."""
        plan, device, started = self.plan, self.device, {}

        def warm_up(result: Result) -> None:
            started[result] = start_timing(self.models[result].run, device,
                                           plan.max_warm_up)
            if result.latency:  # the turns of an earlier run stay
                started[result] = result.latency

        def take_turn_of(result: Result) -> None:
            take_turn(started[result], self.models[result].run, device,
                      plan.seconds)
            result.latency = started[result]

        self.progress("the machine's matrix product", 0)
        self._measure_peaks(results)
        for result in results:
            self._step(result, 'warming up', warm_up)
        for index in list(schedule_turns(len(results), plan.repeats,
                                         plan.order)):
            if not results[index].is_timed(plan):
                self._step(results[index], 'timing', take_turn_of)
        # Once more: what disturbed the first may have gone.
        self._measure_peaks(results)
        self.save(self.report)

    def _measure_peaks(self, results: list[Result]) -> None:
        timed = [result for result in results if result in self.models]
        for dtype in {self.models[result].dtype: None for result in timed}:
            self.peaks.setdefault(dtype, []).append(
                measure_matmul_peak(self.device, DTYPES[dtype]))
        for result in timed:
            result.peak = max(self.peaks[self.models[result].dtype])
        self.report.conditions[PEAK] = ', '.join(
            ' and '.join(f'{peak / 1e9:.1f}' for peak in found) +
            f' ({dtype})' * (len(self.peaks) > 1)
            for dtype, found in self.peaks.items())

    def _measure_energy(self, windows: dict[Result, int]) -> None:
        """Measure windows of work in turns, after one without work."""
        plan, meter, results = self.plan, self.meter, list(self.models)
        self.progress('energy of the idle device',
                      1 + sum(windows[result] for result in results))
        sync = partial(synchronize, self.device)
        sync()
        time.sleep(plan.cool_down)
        idle = measure_idle(meter, plan.energy_seconds)

        def measure(result: Result) -> None:
            run, energy = self.models[result].run, result.energy
            time.sleep(plan.cool_down)
            run()
            before = meter.state()
            window = measure_window(meter, run, self.inputs.batch_size,
                                    plan.energy_seconds, sync)
            # At once, while the clocks are still those of the work.
            after = meter.state()
            result.energy = summarize_energy(
                [*(energy.windows if energy else ()), window], idle, meter,
                energy.before if energy else before, after)

        for index in schedule_turns(len(results), max(windows.values()),
                                    plan.order):
            result = results[index]
            if windows[result]:
                windows[result] -= 1
                self._step(result, 'energy of', measure)


def _explain(error: Exception) -> str:
    """Return why a network failed; print the traceback of a bug."""
    if isinstance(error, torch.OutOfMemoryError):
        reason = str(error).split('. ')[0]
        return f'{reason}; lower --batch-size or --shape'
    if not (line := explain(error)):
        traceback.print_exc()
        line = f'{type(error).__name__}: {error}'.split('\n')[0]
    return line


def _describe_settings(entries: Sequence[BenchmarkEntry], inputs: InputConfig,
                       plan: Plan) -> dict[str, Any]:
    """Return what was chosen, in words."""
    if inputs.part == 'backbone':
        work = 'backbone alone'
    elif inputs.nms:
        work = 'whole model, its predictions included (decoding and NMS)'
    else:
        work = 'whole model, without decoding and NMS'
    shape = ('x'.join(map(str, inputs.shape)) if inputs.shape else
             "the config's test size")
    if any(entry.mode for entry in entries):
        dtype = memory_format = "each mode's"
    else:
        if inputs.dtype == 'fp32':
            tf32 = (inputs.device.startswith('cuda')
                    and torch.backends.cudnn.allow_tf32)
            how = 'as built' + ', TF32 in convolutions' * tf32
        else:
            how = ('weights and input' if inputs.part == 'backbone' else
                   'autocast')
        dtype = f'{inputs.dtype} ({how})'
        memory_format = ('channels last' if inputs.channels_last else
                         'contiguous')
    return {
        'date': time.strftime('%Y-%m-%d'),
        'timed': work,
        'input': (f'noise of {shape} px' if inputs.data is None else
                  f'{inputs.data}, prepared before'),
        'batch': inputs.batch_size,
        'device': inputs.device,
        'dtype': dtype,
        'memory format': memory_format,
        'repeats': (f'{plan.repeats} of {plan.seconds:g} s, {plan.order}, '
                    'after a warm-up until stable'),
        'limit of the spread': plan.max_spread,
    }
