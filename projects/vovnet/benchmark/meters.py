"""Energy meters that read hardware counters: NVML for GPUs, RAPL for CPUs.

Differences of a counter replace the VoVNet paper's sampling of nvidia-smi,
because newer GPUs measure their power for a part of the time only (Yang et
al., arXiv:2312.02741).
"""
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch

from ..utils.errors import UserError

METERS = ('auto', 'nvml', 'rapl', 'none')
RAPL_ROOT = '/sys/class/powercap'


class Reading(NamedTuple):
    """Energy of one window.

    Attributes:
        joules: None if there is a problem.
        seconds: Between the first and the last reading of the counters.
        problem: Why the window cannot be trusted, or ''.
    """
    joules: float | None
    seconds: float
    problem: str = ''

    @property
    def watts(self) -> float | None:
        """Mean power; None if there is a problem."""
        return None if self.problem else self.joules / self.seconds


class NoMeter(NamedTuple):
    """Placeholder for a missing meter; falsy.

    Attributes:
        reason: Why energy cannot be measured, in one line.
    """
    reason: str

    def __bool__(self) -> bool:
        return False


class _Unavailable(Exception):
    """This machine has no such meter; the message says why."""


class _Implausible(Exception):
    """The counters make no sense; the message says why."""


class Meter(ABC):
    """Energy counters, which start again at 0 at the end of their range.

    Attributes:
        method: For tables, such as 'NVML energy counter'.
        scope: What the counters cover, such as 'GPU board'.
        min_seconds: Shortest window in which the steps of the counters (0.1 s
            for NVML) are at most 1 %.
        units_per_joule: Resolution of the counters.
        ranges: Range of each counter, in its unit.
        max_watts: More than what one counter covers can draw.
        errors: Exceptions that reading may raise.
    """
    method: str
    scope: str
    min_seconds: float
    units_per_joule: float
    ranges: Sequence[int]
    max_watts: float
    errors: tuple[type[Exception], ...]

    @abstractmethod
    def read(self) -> Sequence[int]:
        """Read each counter, in its unit."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return the condition of the device now; None for unknown values."""

    def begin(self) -> None:
        """Begin a window, after the device has finished earlier work."""
        self._samples: list[tuple[float, Sequence[int]]] = []
        self._problem = ''
        self.sample()

    def sample(self) -> None:
        """Read the counters; an error spoils the window."""
        try:
            self._samples.append((perf_counter(), self.read()))
        except self.errors as error:
            self._problem = f'{self.method}: {error}'

    def end(self) -> Reading:
        """End the window, after the device has finished its work."""
        self.sample()
        times = [time for time, _ in self._samples] or [0.]
        seconds = times[-1] - times[0]
        try:
            return Reading(self._sum_joules(seconds), seconds)
        except _Implausible as error:
            return Reading(None, seconds, str(error))

    def _sum_joules(self, seconds: float) -> float:
        if self._problem:
            raise _Implausible(self._problem)
        if seconds <= 0:
            raise _Implausible('the window lasted no time')
        joules = 0.
        for (start, first), (end, last) in pairwise(self._samples):
            for before, after, size in zip(first, last, self.ranges):
                joules += self._subtract(before, after, size, end - start)
        if joules <= 0:
            raise _Implausible(f'the counter did not move in {seconds:.3g} s: '
                               'the window is too short, or the counter is '
                               'broken')
        return joules

    def _subtract(self, before: int, after: int, size: int,
                  seconds: float) -> float:
        """Return the joules between two values of a counter."""
        # Counters move in steps, so that a short time may show the energy of
        # a longer one.
        most = self.max_watts * (seconds + 1)
        if size / self.units_per_joule < most:
            raise _Implausible(f'the counter was not read for {seconds:.3g} '
                               's and may have wrapped twice')
        joules = (after - before) % size / self.units_per_joule
        if joules > most:
            raise _Implausible(
                f'the counter went from {before / self.units_per_joule:.0f} '
                f'to {after / self.units_per_joule:.0f} J in {seconds:.3g} s: '
                'it was reset, or the driver was reloaded')
        return joules


def find_meter(device: torch.device | str, kind: str = 'auto',
               rapl_root: str | os.PathLike = RAPL_ROOT) -> Meter | NoMeter:
    """Find the energy meter of a device.

    Args:
        device: A device that torch can use.
        kind: A name in :data:`METERS`; 'auto' is NVML for a GPU and RAPL for
            the CPU.
        rapl_root: Folder in which Linux lists the RAPL domains.

    Returns:
        A meter that has been read once, or the reason why there is none.

    Raises:
        UserError: If the kind is unknown or does not fit the device.
    """
    device = torch.device(device)
    if kind not in METERS:
        raise UserError(f"unknown meter '{kind}'; choose from "
                        f'{", ".join(METERS)}')
    if kind == 'none':
        return NoMeter('not asked for')
    fitting = {'cuda': 'nvml', 'cpu': 'rapl'}.get(device.type)
    if fitting is None:
        return NoMeter(f'no meter is known for devices of type {device.type}')
    if kind not in ('auto', fitting):
        raise UserError(f"meter {kind} does not measure the device '{device}'"
                        f'; choose {fitting} or auto')
    try:
        return NVML(device) if fitting == 'nvml' else RAPL(rapl_root)
    except _Unavailable as error:
        return NoMeter(str(error))


class NVML(Meter):
    """Energy counter of an NVIDIA board; of the module on Grace Hopper."""
    method = 'NVML energy counter'
    scope = 'GPU board'
    min_seconds = 10.
    units_per_joule = 1e3
    ranges = (2**64, )
    max_watts = 5000.

    def __init__(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise _Unavailable(
                'NVML: nvidia-ml-py is not installed; run `pip install '
                'nvidia-ml-py`') from error
        self._nvml, self.errors = pynvml, (pynvml.NVMLError, )
        try:
            pynvml.nvmlInit()
            self._driver = pynvml.nvmlSystemGetDriverVersion()
        except pynvml.NVMLError as error:
            raise _Unavailable(
                f'NVML: {error}; make nvidia-smi work here (a container needs '
                'NVIDIA_DRIVER_CAPABILITIES=compute,utility)') from error
        # CUDA may number GPUs in another order than NVML, or hide some.
        uuid = f'GPU-{torch.cuda.get_device_properties(device).uuid}'
        try:
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            name = pynvml.nvmlDeviceGetName(self._handle)
        except pynvml.NVMLError as error:
            raise _Unavailable(
                f'NVML: {uuid}, which torch uses: {error}; if it is a part of '
                'a divided GPU (MIG), measure on a whole one') from error
        mig = self._ask('nvmlDeviceGetMigMode')
        if mig and mig[0]:
            raise _Unavailable(
                'NVML: the GPU is divided (MIG), but its counter covers the '
                'whole board; measure on an undivided one')
        try:
            self.read()
        except pynvml.NVMLError as error:
            raise _Unavailable(f'NVML: the energy counter of {name} cannot be '
                               f'read: {error}') from error

    def read(self) -> tuple[int]:
        """Read the millijoules since the driver was loaded."""
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle),

    def read_power(self) -> float:
        """Read the power in watts, on most GPUs the mean of a second."""
        return self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3

    def _ask(self, function: str, *args: int) -> Any:
        """Call a function of NVML; None if the board does not support it."""
        try:
            return getattr(self._nvml, function)(self._handle, *args)
        except self._nvml.NVMLError:
            return None

    def state(self) -> dict[str, Any]:
        """Return clocks, temperature, power limit and load of the board.

        ``utilisation_percent`` is of all processes over the last sampling
        period of NVML, ``other_processes`` the number of other processes that
        compute on the GPU.
        """
        nvml, ask = self._nvml, self._ask
        limit = ask('nvmlDeviceGetEnforcedPowerLimit')
        load = ask('nvmlDeviceGetUtilizationRates')
        pids = {process.pid for process in
                ask('nvmlDeviceGetComputeRunningProcesses') or []}
        return dict(
            name=ask('nvmlDeviceGetName'),
            driver=self._driver,
            sm_clock_mhz=ask('nvmlDeviceGetClockInfo', nvml.NVML_CLOCK_SM),
            memory_clock_mhz=ask('nvmlDeviceGetClockInfo',
                                 nvml.NVML_CLOCK_MEM),
            temperature_c=ask('nvmlDeviceGetTemperature',
                              nvml.NVML_TEMPERATURE_GPU),
            power_limit_w=None if limit is None else limit / 1000,
            utilisation_percent=None if load is None else load.gpu,
            # In a container, NVML lists the host's process ids or none.
            other_processes=len(pids) - 1 if os.getpid() in pids else None)


class RAPL(Meter):
    """Counters of x86 CPU packages and their memory (Intel and AMD).

    The domains 'core' and 'uncore' are parts of a package, and 'psys' (the
    platform) contains the packages, so that these are not added. See
    ``Documentation/power/powercap/powercap.rst`` of Linux.

    Attributes:
        interval: Seconds between readings. Counters wrap after 65 to 262 kJ,
            which a busy server uses in minutes.
    """
    method = 'RAPL'
    min_seconds = 1.
    units_per_joule = 1e6
    max_watts = 1000.
    errors = (OSError, )
    interval = 1.

    def __init__(self, root: str | os.PathLike = RAPL_ROOT) -> None:
        try:
            # Not intel-rapl-mmio:*, a second interface to the same packages.
            names = {folder: (folder / 'name').read_text().strip()
                     for folder in sorted(Path(root).glob('intel-rapl:*'))}
            self._domains = {
                folder: name for folder, name in names.items()
                if name.startswith('package') or name == 'dram'}
            self.ranges = [int((folder / 'max_energy_range_uj').read_text())
                           for folder in self._domains]
            self.read()
        except PermissionError as error:
            raise _Unavailable(
                f'RAPL: only root may read {error.filename}; run `sudo chmod '
                f'a+r {root}/intel-rapl:*/energy_uj`') from error
        except OSError as error:
            raise _Unavailable(f'RAPL: {error}') from error
        if not self._domains:
            raise _Unavailable(
                f'RAPL: {root} lists no package; the processor, the virtual '
                'machine or the container does not offer it')
        kinds = [name.split('-')[0] for name in self._domains.values()]
        packages = 'packages' if kinds.count('package') > 1 else 'package'
        dram = ' and DRAM' if 'dram' in kinds else ''
        self.scope = f'CPU {packages}{dram} of all processes'

    def read(self) -> list[int]:
        """Read the microjoules of each domain."""
        return [int((folder / 'energy_uj').read_text())
                for folder in self._domains]

    def state(self) -> dict[str, Any]:
        """Return the counted domains and the load of the last minute."""
        return dict(domains=[f'{folder.name} {name}' for folder, name
                             in self._domains.items()],
                    load_average=os.getloadavg()[0])

    def begin(self) -> None:
        """Begin a window and read the counters regularly in a thread."""
        super().begin()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_sampling,
                                        daemon=True)
        self._thread.start()

    def _keep_sampling(self) -> None:
        while not self._stop.wait(self.interval):
            self.sample()

    def end(self) -> Reading:
        """End the thread and the window."""
        self._stop.set()
        self._thread.join()
        return super().end()
