"""Energy per image: windows of work, less what the idle device takes.

Sources: the VoVNet paper divides the mean of nvidia-smi's power, sampled every
100 ms, by the frame rate (arXiv:1904.09730, Eq. 2); it leaves the idle power
in. Here both are given, from several windows of at least 10 s that begin and
end with a synchronised device, as zeus (ml.energy) recommends. Where the
joules come from is in ``meters.py``.
"""
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import nan
from statistics import median
from typing import Any, NamedTuple

from .meters import Meter, NoMeter, Reading, find_meter

__all__ = ['Energy', 'Meter', 'NoMeter', 'Reading', 'Window', 'find_meter',
           'measure_idle', 'measure_window', 'summarise']


class Window(NamedTuple):
    """A reading, and how many images were processed in it."""
    reading: Reading
    images: int


def measure_idle(meter: Meter, seconds: float = 10.,
                 sleep: Callable[[float], Any] = time.sleep) -> Reading:
    """Measure what the device takes with nothing to do.

    Args:
        meter (Meter): From :func:`find_meter`.
        seconds (float): Length of the window.
        sleep (Callable): Called with them.

    Returns:
        Reading: Its ``watts`` are the idle power.
    """
    meter.begin()
    try:
        sleep(seconds)
    finally:
        reading = meter.end()
    return reading


def measure_window(meter: Meter, run: Callable[[], Any], images_per_run: int,
                   seconds: float = 10.,
                   sync: Callable[[], Any] = lambda: None,
                   clock: Callable[[], float] = time.perf_counter) -> Window:
    """Measure runs that follow each other without a pause.

    Args:
        meter (Meter): From :func:`find_meter`.
        run (Callable): Processes a batch; called at least once.
        images_per_run (int): Images in the batch.
        seconds (float): The window lasts at least as long.
        sync (Callable): Waits until the device has done all it was given;
            called before both ends of the window.
        clock (Callable): Seconds.

    Returns:
        Window: Reading and number of images.
    """
    images = 0
    sync()
    meter.begin()
    try:
        start = clock()
        while not images or clock() - start < seconds:
            run()
            images += images_per_run
        sync()
    finally:
        reading = meter.end()
    return Window(reading, images)


@dataclass
class Energy:
    """The energy of one network, and how it was measured.

    Figures are None where no window can be trusted; ``problems`` says why.

    Attributes:
        method: The meter's.
        scope: The meter's.
        joules_per_image: Gross: all that was used. Median of the windows.
        net_of_idle: The same, less the idle power for the same time; None
            without an idle power below that of every window.
        watts: Median of the windows' mean power.
        idle_watts: Power with nothing to do, or None.
        spread: (maximum - minimum) / median of the windows' joules per
            image; None for a single window.
        seconds: Total of the windows that count.
        windows: All windows, also those that do not count.
        before: The meter's ``state()`` before the first window.
        after: And after the last.
        problems: What is to be said with the figures, a line each.
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
        """All of it for JSON; a window with a problem has no ``joules``."""
        windows = [dict(
            joules=None if reading.problem else reading.joules,
            seconds=reading.seconds, images=images, problem=reading.problem)
            for reading, images in self.windows]
        return {**asdict(self), 'windows': windows}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> 'Energy':
        """Read what :meth:`to_dict` gave."""
        windows = [
            Window(Reading(nan if one['joules'] is None else one['joules'],
                           one['seconds'], one['problem']), one['images'])
            for one in saved['windows']]
        return cls(**{**saved, 'windows': windows})


def summarise(windows: Sequence[tuple[Reading, int]], idle: Reading | None,
              meter: Meter, before: dict[str, Any] | None = None,
              after: dict[str, Any] | None = None) -> Energy:
    """Joules per image from several windows.

    Args:
        windows (Sequence[tuple[Reading, int]]): From :func:`measure_window`.
        idle (Reading | None): From :func:`measure_idle`, or None if it was
            not measured.
        meter (Meter): What they were measured with.
        before (dict | None): Its ``state()`` before the first window.
        after (dict | None): And after the last.

    Returns:
        Energy: From the windows that have no problem.
    """
    before, after = before or {}, after or {}
    energy = Energy(meter.method, meter.scope, before=before, after=after,
                    windows=[Window(*window) for window in windows])
    counted = []
    for number, window in enumerate(energy.windows, 1):
        problem = window.reading.problem or (
            '' if window.images > 0 else 'no image was processed')
        if problem:
            energy.problems.append(
                f'window {number} of {len(windows)}: {problem}')
        else:
            counted.append(window)
    if idle and idle.problem:
        energy.problems.append(f'idle: {idle.problem}')
    elif idle:
        energy.idle_watts = idle.watts
    if counted:
        _fill(energy, counted)
    lengths = [reading.seconds for reading, _ in counted]
    if idle and not idle.problem:
        lengths.append(idle.seconds)
    if lengths and min(lengths) < meter.shortest:
        energy.problems.append(
            f'a window lasted {min(lengths):.3g} s; below {meter.shortest:g} '
            's the steps of the meter are more than 1 % of it')
    limits = [state.get('power_limit_w') for state in (before, after)]
    if None not in limits and limits[0] != limits[1]:
        energy.problems.append('the power limit changed from {:g} to {:g} W'
                               .format(*limits))
    others = max(state.get('other_processes') or 0
                 for state in (before, after))
    if others:
        energy.problems.append(f'processes that computed on the GPU beside '
                               f'this one: {others}; theirs is included')
    return energy


def _fill(energy: Energy, counted: Sequence[Window]) -> None:
    """Set the figures of windows that have no problem."""
    gross = [reading.joules / images for reading, images in counted]
    energy.joules_per_image = median(gross)
    energy.watts = median(reading.watts for reading, _ in counted)
    energy.seconds = sum(reading.seconds for reading, _ in counted)
    if len(gross) > 1:
        energy.spread = (max(gross) - min(gross)) / median(gross)
    if energy.idle_watts is None:
        return
    net = [(reading.joules - energy.idle_watts * reading.seconds) / images
           for reading, images in counted]
    if min(net) > 0:
        energy.net_of_idle = median(net)
    else:
        energy.problems.append(
            f'idle the device took {energy.idle_watts:.3g} W, no less than '
            'at work: it was not idle then')
