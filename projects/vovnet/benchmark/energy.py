"""Energy per image, from windows of work, with and without idle energy.

The VoVNet paper divides the mean power by the frame rate (arXiv:1904.09730,
Eq. 2) and leaves the idle power in. Windows of at least 10 s on a synchronized
device follow the advice of Zeus (ml.energy).
"""
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from time import perf_counter, sleep
from typing import Any, NamedTuple

from .meters import Meter, Reading


class Window(NamedTuple):
    """A reading and the number of images processed in it."""
    reading: Reading
    images: int


def measure_idle(meter: Meter, seconds: float = 10.) -> Reading:
    """Measure the device while it has nothing to do."""
    return measure_window(meter, lambda: sleep(seconds), 1, seconds=0).reading


def measure_window(meter: Meter, run: Callable[[], Any], images_per_run: int,
                   seconds: float = 10.,
                   sync: Callable[[], Any] = lambda: None) -> Window:
    """Measure runs that follow each other without a pause.

    Args:
        meter: From :func:`vovnet.benchmark.meters.find_meter`.
        run: Processes a batch; called at least once.
        images_per_run: Images in the batch.
        seconds: Shortest length of the window.
        sync: Waits for the device; called before both ends of the window.
    """
    images = 0
    sync()
    meter.begin()
    try:
        start = perf_counter()
        while not images or perf_counter() - start < seconds:
            run()
            images += images_per_run
        sync()
    finally:
        reading = meter.end()
    return Window(reading, images)


@dataclass
class Energy:
    """Energy of one network; figures are None if no window is valid.

    Attributes:
        method: See :class:`vovnet.benchmark.meters.Meter`.
        scope: See :class:`vovnet.benchmark.meters.Meter`.
        joules_per_image: All energy. Median of the windows.
        net_of_idle: Energy above that of the idle device in the same time;
            None without an idle power below that of every window.
        watts: Median of the windows' mean power.
        idle_watts: Power of the idle device.
        spread: (maximum - minimum) / median of the windows' joules per image;
            None for a single window.
        seconds: Total of the valid windows.
        windows: All windows, valid or not.
        before: State of the meter before the first window.
        after: State of the meter after the last window.
        problems: Remarks for the reader, one line each.
    """
    method: str
    scope: str
    joules_per_image: float | None = None
    net_of_idle: float | None = None
    watts: float | None = None
    idle_watts: float | None = None
    spread: float | None = None
    seconds: float = 0.
    windows: list[Window] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        windows = [dict(window.reading._asdict(), images=window.images)
                   for window in self.windows]
        return dict(asdict(self), windows=windows)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> 'Energy':
        """Read the result of :meth:`to_dict`."""
        windows = [
            Window(Reading(one['joules'], one['seconds'], one['problem']),
                   one['images']) for one in saved['windows']]
        return cls(**dict(saved, windows=windows))


def summarize_energy(windows: Sequence[tuple[Reading, int]],
                     idle: Reading | None, meter: Meter,
                     before: dict[str, Any] | None = None,
                     after: dict[str, Any] | None = None) -> Energy:
    """Compute the energy per image from several windows.

    Args:
        windows: From :func:`measure_window`.
        idle: From :func:`measure_idle`; None if it was not measured.
        meter: What they were measured with.
        before: State of the meter before the first window.
        after: State of the meter after the last window.
    """
    before, after = before or {}, after or {}
    energy = Energy(meter.method, meter.scope, before=before, after=after,
                    windows=[Window(*window) for window in windows])
    note = energy.problems.append
    valid = []
    for number, window in enumerate(energy.windows, 1):
        problem = window.reading.problem
        if not problem and not window.images:
            problem = 'no image was processed'
        if problem:
            note(f'window {number} of {len(windows)}: {problem}')
        else:
            valid.append(window)
    lengths = [window.reading.seconds for window in valid]
    if idle and idle.problem:
        note(f'idle: {idle.problem}')
    elif idle:
        energy.idle_watts = idle.watts
        lengths.append(idle.seconds)
    if valid:
        _set_figures(energy, valid)
    if lengths and min(lengths) < meter.min_seconds:
        note(f'a window lasted {min(lengths):.3g} s; below '
             f'{meter.min_seconds:g} s the steps of the meter are more than '
             '1 % of it')
    limits = before.get('power_limit_w'), after.get('power_limit_w')
    if None not in limits and limits[0] != limits[1]:
        note('the power limit changed from {:g} to {:g} W'.format(*limits))
    others = max(state.get('other_processes') or 0
                 for state in (before, after))
    if others:
        note(f'other processes computed on the GPU: {others}; their energy '
             'is included')
    return energy


def _set_figures(energy: Energy, valid: Sequence[Window]) -> None:
    gross = [reading.joules / images for reading, images in valid]
    energy.joules_per_image = median(gross)
    energy.watts = median(reading.watts for reading, _ in valid)
    energy.seconds = sum(reading.seconds for reading, _ in valid)
    if len(gross) > 1:
        energy.spread = (max(gross) - min(gross)) / median(gross)
    if energy.idle_watts is None:
        return
    net = [(reading.joules - energy.idle_watts * reading.seconds) / images
           for reading, images in valid]
    if min(net) > 0:
        energy.net_of_idle = median(net)
    else:
        energy.problems.append(
            f'the idle device took {energy.idle_watts:.3g} W, no less than at '
            'work; it was not idle')
