"""What measures energy: counters of the hardware, read and never estimated.

Sources: the VoVNet paper samples nvidia-smi's power every 100 ms, for which
newer GPUs look at their power a part of the time only (Yang et al.,
arXiv:2312.02741). Here the difference of the board's energy counter is taken,
and power is polled where there is no counter. Read: NVIDIA's NVML API
reference and nvidia-ml-py 13.615.71; the kernel's
``Documentation/power/powercap/powercap.rst``; zeus 0.16.0 (Apache-2.0:
``monitor/energy.py``, ``device/gpu/nvidia.py``, ``device/cpu/rapl.py``), which
measures the same and serves as a cross-check (it lets wraps and resets of
NVML's counter pass); torch 2.11's reading of ``CUDA_VISIBLE_DEVICES``
(``cuda/__init__.py``).

A window that must not be trusted has a reason in place of a number.
"""
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import nan
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any, NamedTuple

import torch

from ..utils.errors import UserError

METERS = ('auto', 'nvml', 'rapl', 'zeus', 'none')
RAPL_ROOT = '/sys/class/powercap'


class Reading(NamedTuple):
    """The energy of one window.

    Attributes:
        joules: NaN if there is a problem.
        seconds: Between the meter's first and last look at its source.
        problem: Why the window must not be trusted, or ''.
    """
    joules: float
    seconds: float
    problem: str = ''

    @property
    def watts(self) -> float:
        """Mean power; NaN if there is a problem."""
        return nan if self.problem else self.joules / self.seconds


class NoMeter(NamedTuple):
    """In place of a meter, and false: why energy cannot be measured.

    Attributes:
        reason: One line, with what to do where something can be done.
    """
    reason: str

    def __bool__(self) -> bool:
        return False


class Meter(ABC):
    """Measures one window after the other.

    Attributes:
        method: How, for instance 'NVML energy counter'.
        scope: What is covered, for instance 'GPU board': never this process
            alone.
        shortest: Seconds that a window has to last so that the steps in
            which the source is renewed (0.1 s at NVML) are 1 % of it.
    """
    method: str
    scope: str
    shortest: float

    @abstractmethod
    def begin(self) -> None:
        """Begin a window, when the device has finished earlier work."""

    @abstractmethod
    def end(self) -> Reading:
        """End the window, when the device has finished its work."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The device's condition now; None for what it does not tell."""


def find_meter(device: torch.device | str, kind: str = 'auto',
               rapl_root: str | os.PathLike = RAPL_ROOT) -> Meter | NoMeter:
    """Find what measures the energy of a device.

    Args:
        device (torch.device | str): In torch's numbers, which count the GPUs
            that CUDA_VISIBLE_DEVICES leaves.
        kind (str): 'auto' (NVML for a GPU, RAPL for the CPU), 'nvml', 'rapl',
            'zeus' (for a GPU) or 'none'.
        rapl_root (str | os.PathLike): Where the kernel lists RAPL's domains.

    Returns:
        Meter | NoMeter: A meter that could be read, or why there is none.

    Raises:
        UserError: If the kind is unknown or not the device's, or zeus is
            asked for and cannot be imported.
    """
    device = torch.device(device)
    if kind not in METERS:
        raise UserError(f"meter '{kind}': there is none of this name; choose "
                        f'from {", ".join(METERS)}')
    if kind == 'none':
        return NoMeter('not asked for')
    own = {'cuda': 'nvml', 'cpu': 'rapl'}.get(device.type)
    if own is None:
        return NoMeter(f'no meter is known for devices of type {device.type}')
    if kind not in ('auto', own) and (kind, own) != ('zeus', 'nvml'):
        raise UserError(f'meter {kind}: does not measure the device '
                        f"'{device}'; choose {own} or auto")
    try:
        if own == 'rapl':
            return RAPL(rapl_root)
        board = _Board(device)
        if kind == 'zeus':
            return Zeus(board)
        return NVMLCounter(board) if board.counts() else NVMLPower(board)
    except _Unavailable as error:
        return NoMeter(str(error))


class _Unavailable(Exception):
    """This machine does not let us measure; the message says why."""


class _Disturbed(Exception):
    """What was read makes no sense; the message says why."""


def _checked(joules: float, seconds: float) -> Reading:
    """A reading, without a number where there is none."""
    problem = ''
    if seconds <= 0:
        problem = 'the window lasted no time'
    elif joules <= 0:
        problem = (f'nothing was counted in {seconds:.3g} s: too short, or '
                   'the meter stands still')
    return Reading(nan if problem else joules, seconds, problem)


# -- meters that read the sources themselves ---------------------------------


class _Sampled(Meter):
    """Reads its sources at both ends of a window, and between them.

    Attributes:
        interval: Seconds after which a thread reads them in between; None:
            never.
        errors: What reading may raise.
    """
    interval: float | None = None
    errors: tuple[type[Exception], ...]

    @abstractmethod
    def _read(self) -> Sequence[int]:
        """What each source says, in its unit."""

    @abstractmethod
    def _joules(self, seconds: float, first: Sequence[int],
                last: Sequence[int]) -> float:
        """Energy between two samples that follow each other."""

    def begin(self) -> None:
        self._samples: list[tuple[float, Sequence[int]]] = []
        self._problem = ''
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading, daemon=True)
        self.sample()
        self._thread.start()  # without an interval it ends at once

    def sample(self) -> None:
        """Read the sources now; an error spoils the window."""
        try:
            self._samples.append((perf_counter(), self._read()))
        except self.errors as error:
            self._problem = f'{self.method}: {error}'

    def _keep_reading(self) -> None:
        while self.interval and not self._stop.wait(self.interval):
            self.sample()

    def end(self) -> Reading:
        self._stop.set()
        self._thread.join()
        self.sample()
        times = [moment for moment, _ in self._samples] or [0.]
        seconds = times[-1] - times[0]
        try:
            if self._problem:
                raise _Disturbed(self._problem)
            return _checked(sum(
                self._joules(end - start, first, last) for
                (start, first), (end, last) in pairwise(self._samples)),
                seconds)
        except _Disturbed as error:
            return Reading(nan, seconds, str(error))


class _Counters(_Sampled):
    """Counters of energy that begin at 0 again at the end of their range.

    Attributes:
        per_joule: The unit.
        ranges: Of each counter, in its unit.
        most_watts: More than what a counter covers can take.
    """
    per_joule: float
    ranges: Sequence[int]
    most_watts: float

    def _joules(self, seconds: float, first: Sequence[int],
                last: Sequence[int]) -> float:
        # The counters stand still between their steps, so a short time may
        # see what was used in a longer one.
        most = self.most_watts * (seconds + 1)
        total = 0.
        for before, after, size in zip(first, last, self.ranges):
            gained = (after - before) % size / self.per_joule
            if size / self.per_joule < most:
                raise _Disturbed(f'no look at the counter for {seconds:.3g} '
                                 's, in which it may have begun again twice')
            if gained > most:
                raise _Disturbed(
                    f'the counter went from {before / self.per_joule:.0f} to '
                    f'{after / self.per_joule:.0f} J in {seconds:.3g} s: it '
                    'was reset, or the driver was loaded anew')
            total += gained
        return total


# -- NVIDIA GPUs -------------------------------------------------------------


def visible_gpus(uuids: Sequence[str]) -> list[int]:
    """Which GPUs CUDA_VISIBLE_DEVICES leaves, in its order.

    It holds numbers or, if it begins with 'GPU-', unique beginnings of UUIDs.
    It ends before the first entry that names no GPU; a GPU that is named
    twice leaves none.

    Args:
        uuids (Sequence[str]): Of all GPUs ('GPU-...'), in NVML's order.

    Returns:
        list[int]: Their indices in ``uuids``.
    """
    entries = os.environ.get('CUDA_VISIBLE_DEVICES')
    if entries is None:
        return list(range(len(uuids)))
    by_uuid = entries.startswith('GPU-')
    found: list[int] = []
    for entry in entries.split(','):
        matches = [i for i, uuid in enumerate(uuids) if (
            entry.startswith('GPU-') and uuid.startswith(entry) if by_uuid
            else entry.strip() == str(i))]
        if len(matches) != 1:
            break
        found += matches
    return found if len(set(found)) == len(found) else []


class _Board:
    """A GPU's board, as NVML sees it.

    Attributes:
        nvml: The module ``pynvml``.
        index: Of the board, in NVML's order: that of the PCI bus.
        visible: What CUDA_VISIBLE_DEVICES leaves, in the same numbers.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise _Unavailable(
                'NVML: the package nvidia-ml-py is not installed (pip '
                'install nvidia-ml-py)') from error
        self.nvml: ModuleType = pynvml
        try:
            pynvml.nvmlInit()
            self._driver = pynvml.nvmlSystemGetDriverVersion()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i)
                       for i in range(pynvml.nvmlDeviceGetCount())]
            uuids = list(map(pynvml.nvmlDeviceGetUUID, handles))
            names = list(map(pynvml.nvmlDeviceGetName, handles))
        except pynvml.NVMLError as error:
            raise _Unavailable(
                f'NVML: {error}; does nvidia-smi work here? (A container '
                'needs NVIDIA_DRIVER_CAPABILITIES=compute,utility)'
            ) from error
        self.visible = visible_gpus(uuids)
        self.index = self._locate(device, uuids, same=len(set(names)) == 1)
        self._handle, self._name = handles[self.index], names[self.index]
        mig = self._ask('nvmlDeviceGetMigMode')
        if mig and mig[0]:
            raise _Unavailable(_MIG)

    def _locate(self, device: torch.device, uuids: list[str],
                same: bool) -> int:
        """Index of torch's device among all GPUs, which may be all the same.

        By its UUID, or where torch does not tell it, by its number.
        """
        chosen = os.environ.get('CUDA_VISIBLE_DEVICES', '')
        if chosen.startswith('MIG-'):
            raise _Unavailable(_MIG)
        index = device.index or 0
        if torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(device)
            if uuid := getattr(properties, 'uuid', None):
                if f'GPU-{uuid}' in uuids:
                    return uuids.index(f'GPU-{uuid}')
                raise _Unavailable(
                    f'NVML: knows no GPU-{uuid}, which torch uses; if it is a '
                    'part of a divided GPU (MIG), measure on a whole one')
        if index >= len(self.visible):
            raise _Unavailable(
                f'cuda:{index}: NVML sees {len(uuids)} GPUs, of which '
                f'CUDA_VISIBLE_DEVICES leaves {len(self.visible)}')
        if not (same or chosen.startswith('GPU-')
                or os.environ.get('CUDA_DEVICE_ORDER') == 'PCI_BUS_ID'):
            raise _Unavailable(_ORDER)
        return self.visible[index]

    def _ask(self, function: str, *args: int) -> Any:
        """What NVML says of the board; None where it does not know."""
        try:
            return getattr(self.nvml, function)(self._handle, *args)
        except self.nvml.NVMLError:
            return None

    def counts(self) -> bool:
        """Whether the board counts its energy; else it tells its power.

        Raises:
            _Unavailable: If neither can be read.
        """
        nvml = self.nvml
        try:
            try:
                self.read_millijoules()
                return True
            except (nvml.NVMLError_NotSupported,
                    nvml.NVMLError_FunctionNotFound):
                self.read_milliwatts()
                return False
        except nvml.NVMLError as error:
            raise _Unavailable(f'NVML: {self._name} tells neither its energy '
                               f'nor its power: {error}') from error

    def read_millijoules(self) -> int:
        """The energy counter: mJ since the driver was loaded."""
        return self.nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)

    def read_milliwatts(self) -> int:
        """The power now, mW; on most GPUs since Ampere, a second's mean."""
        return self.nvml.nvmlDeviceGetPowerUsage(self._handle)

    def state(self) -> dict[str, Any]:
        """As the meters have it."""
        nvml, ask = self.nvml, self._ask
        limit = ask('nvmlDeviceGetEnforcedPowerLimit')
        load = ask('nvmlDeviceGetUtilizationRates')
        pids = {process.pid for process in
                ask('nvmlDeviceGetComputeRunningProcesses') or []}
        return dict(
            name=self._name,
            driver=self._driver,
            sm_clock_mhz=ask('nvmlDeviceGetClockInfo', nvml.NVML_CLOCK_SM),
            memory_clock_mhz=ask('nvmlDeviceGetClockInfo',
                                 nvml.NVML_CLOCK_MEM),
            temperature_c=ask('nvmlDeviceGetTemperature',
                              nvml.NVML_TEMPERATURE_GPU),
            power_limit_w=None if limit is None else limit / 1000,
            utilisation_percent=None if load is None else load.gpu,
            # In a container the numbers are the host's, if there are any.
            other_processes=(len(pids) - 1 if os.getpid() in pids else None))


_MIG = ('NVML: the GPU is divided (MIG), and its counter covers the whole '
        'board; measure on an undivided one')
_ORDER = ('NVML: the GPUs differ, and CUDA may number them by their speed; '
          'set CUDA_DEVICE_ORDER=PCI_BUS_ID')


class _GPUMeter(Meter):
    """Measures a board; on Grace Hopper, NVML's board is the module."""
    scope = 'GPU board'
    shortest = 10.

    def __init__(self, board: _Board) -> None:
        self.board = board
        self.errors = (board.nvml.NVMLError, )

    def state(self) -> dict[str, Any]:
        """The board's condition now.

        Returns:
            dict: ``name``, ``driver``, ``sm_clock_mhz``,
            ``memory_clock_mhz``, ``temperature_c``, ``power_limit_w``,
            ``utilisation_percent`` (by all processes, over NVML's last
            sampling period) and ``other_processes`` (how many compute on the
            GPU beside this one); None for what cannot be known.
        """
        return self.board.state()


class NVMLCounter(_GPUMeter, _Counters):
    """The energy counter of a GPU, Volta and newer, read twice a window."""
    method = 'NVML energy counter'
    per_joule = 1e3
    ranges = (2**64, )
    most_watts = 5000.

    def _read(self) -> tuple[int]:
        return self.board.read_millijoules(),


class NVMLPower(_GPUMeter, _Sampled):
    """The power of a GPU without a counter, integrated by trapezoids."""
    interval = 0.1
    method = f'NVML power polling, every {interval * 1000:.0f} ms (no counter)'

    def _read(self) -> tuple[int]:
        return self.board.read_milliwatts(),

    def _joules(self, seconds: float, first: Sequence[int],
                last: Sequence[int]) -> float:
        return seconds * (first[0] + last[0]) / 2 / 1e3


class Zeus(_GPUMeter):
    """What zeus measures: the same counter by other code, to compare.

    Zeus takes the numbers in CUDA_VISIBLE_DEVICES (it knows no UUIDs there)
    in NVML's order.

    Raises:
        UserError: If zeus cannot be imported.
    """

    def __init__(self, board: _Board) -> None:
        super().__init__(board)
        try:
            import zeus
            from zeus.monitor import ZeusMonitor
        except ImportError as error:
            raise UserError(f'meter zeus: {error}; pip install zeus, or '
                            'choose nvml') from error
        self.method = f'Zeus {zeus.__version__} (NVML)'
        if board.index not in board.visible:
            raise _Unavailable(_ORDER)
        try:
            self._monitor = ZeusMonitor(
                gpu_indices=[board.visible.index(board.index)],
                cpu_indices=[])
        except Exception as error:  # its errors have no class in common
            raise _Unavailable(
                f'zeus: {type(error).__name__}: {error}') from error

    def begin(self) -> None:
        """Begin a window; zeus synchronises as well."""
        self._monitor.begin_window('vovnet', restart=True)

    def end(self) -> Reading:
        """End the window, whose time is zeus's."""
        found = self._monitor.end_window('vovnet')
        return _checked(sum(found.gpu_energy.values()), found.time)


# -- CPUs --------------------------------------------------------------------


class RAPL(_Counters):
    """Counters of x86 packages and their memory, Intel's and AMD's.

    A package contains its domains 'core' and 'uncore', and 'psys' (the
    platform) contains the packages; none of them is counted again. The
    counters end at 65 to 262 kJ, which a busy server uses in minutes; they
    are read once a second.

    Args:
        root (str | os.PathLike): Where the kernel lists the domains.
    """
    method = 'RAPL'
    shortest = 1.
    interval = 1.
    errors = (OSError, )
    per_joule = 1e6
    most_watts = 1000.

    def __init__(self, root: str | os.PathLike = RAPL_ROOT) -> None:
        try:
            # Not intel-rapl-mmio:*, the same packages by another way.
            names = {folder: (folder / 'name').read_text().strip()
                     for folder in sorted(Path(root).glob('intel-rapl:*'))}
            self._domains = {
                folder: name for folder, name in names.items()
                if name.startswith('package') or name == 'dram'}
            self.ranges = [int((folder / 'max_energy_range_uj').read_text())
                           for folder in self._domains]
            self._read()
        except PermissionError as error:
            raise _Unavailable(
                f'RAPL: {error.filename} may be read by root only; run as '
                f'root, or: sudo chmod a+r {root}/intel-rapl:*/energy_uj'
            ) from error
        except OSError as error:
            raise _Unavailable(f'RAPL: {error}') from error
        if not self._domains:
            raise _Unavailable(
                f'RAPL: {root} lists no package; the processor, the virtual '
                'machine or the container does not offer it')
        kinds = [name.split('-')[0] for name in self._domains.values()]
        self.scope = (
            ('CPU packages' if kinds.count('package') > 1 else 'CPU package')
            + (' and DRAM' if 'dram' in kinds else '') + ' of all processes')

    def _read(self) -> list[int]:
        return [int((folder / 'energy_uj').read_text())
                for folder in self._domains]

    def state(self) -> dict[str, Any]:
        """The domains that are counted, and the machine's load.

        Returns:
            dict: ``domains``, as 'intel-rapl:0 package-0', and
            ``load_average`` (processes that wanted to run, mean of the last
            minute).
        """
        return dict(domains=[f'{folder.name} {name}' for folder, name
                             in self._domains.items()],
                    load_average=os.getloadavg()[0])
