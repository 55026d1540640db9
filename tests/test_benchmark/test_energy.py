"""Energy: joules worked out by hand from what stand-ins' counters say.

The stand-in for NVML replaces functions of nvidia-ml-py itself, whose names,
signatures, constants and errors are therefore the real ones.
"""
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import pynvml
import pytest
import torch

from vovnet.benchmark import energy, meters
from vovnet.benchmark.energy import (
    Energy,
    measure_idle,
    measure_window,
    summarize_energy,
)
from vovnet.benchmark.meters import NoMeter, Reading, find_meter
from vovnet.utils.errors import UserError

NOT_SUPPORTED = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
NOT_FOUND = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
NO_PERMISSION = pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
NO_LIBRARY = pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
NO_DRIVER = pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
LOST = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)


class Board:
    """A GPU as NVML shows it; an exception as a value is raised."""

    def __init__(self, uuid='GPU-aaaa', mj=0, mig=NOT_SUPPORTED,
                 limit=700_000, pids=()):
        self.__dict__.update(vars(), name='NVIDIA H100', mw=123_000,
                             utilization=3, celsius=41)


def value(found):
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    clock = SimpleNamespace(now=1000.)
    for module in energy, meters:
        monkeypatch.setattr(module, 'perf_counter', lambda: clock.now)
    return clock


@pytest.fixture
def nvml(monkeypatch):
    """Put boards into the machine: ``nvml(Board(), ...)``.

    CUDA numbers them in the reverse order of NVML.
    """

    def insert(*boards, init=None):
        by_uuid = {board.uuid: board for board in boards}
        clocks = {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}
        functions = dict(
            nvmlInit=lambda: value(init),
            nvmlSystemGetDriverVersion=lambda: '580.65.06',
            nvmlDeviceGetHandleByUUID=lambda uuid: value(
                by_uuid.get(uuid, NOT_FOUND)),
            nvmlDeviceGetName=lambda b: b.name,
            nvmlDeviceGetMigMode=lambda b: value(b.mig),
            nvmlDeviceGetTotalEnergyConsumption=lambda b: value(b.mj),
            nvmlDeviceGetPowerUsage=lambda b: value(b.mw),
            nvmlDeviceGetEnforcedPowerLimit=lambda b: value(b.limit),
            nvmlDeviceGetClockInfo=lambda b, kind: clocks[kind],
            nvmlDeviceGetTemperature=lambda b, sensor: b.celsius,
            nvmlDeviceGetUtilizationRates=lambda b: SimpleNamespace(
                gpu=b.utilization),
            nvmlDeviceGetComputeRunningProcesses=lambda b: [
                SimpleNamespace(pid=pid) for pid in b.pids])
        for name, function in functions.items():
            monkeypatch.setattr(pynvml, name, create_autospec(
                getattr(pynvml, name), side_effect=function))
        monkeypatch.setattr(
            torch.cuda, 'get_device_properties',
            lambda device: SimpleNamespace(uuid=boards[
                -1 - (device.index or 0)].uuid.removeprefix('GPU-')))
        return boards

    return insert


def measure(meter, clock, seconds, **changes):
    """Measure a window at whose end a board has changed."""
    meter.begin()
    clock.now += seconds
    for name, found in changes.items():
        setattr(meter._handle, name, found)
    return meter.end()


# -- the energy counter ------------------------------------------------------


def test_counter(nvml, clock):
    nvml(Board(mj=5_000_000))
    meter = find_meter('cuda', 'nvml')
    assert (meter.method, meter.scope) == ('NVML energy counter', 'GPU board')
    # 3 kJ in 12 s.
    reading = measure(meter, clock, 12, mj=8_000_000)
    assert reading == (3000, 12, '') and reading.watts == 250
    # The next window begins where the counter stands.
    assert measure(meter, clock, 10, mj=8_001_000).joules == 1
    assert meter.read_power() == 123


def test_counter_wraps(nvml, clock):
    nvml(Board(mj=2**64 - 500_000))
    # 500 J up to the end of its 64 bits, 2000 J after it.
    assert measure(find_meter('cuda'), clock, 10, mj=2_000_000) == (
        2500, 10, '')


@pytest.mark.parametrize('seconds, before, after, problem', [
    (10, 9_000_000, 700_000, 'from 9000 to 700 J in 10 s: it was reset'),
    (10, 9_000_000, 0, 'from 9000 to 0 J in 10 s: it was reset'),
    (10, 0, 10**9, 'from 0 to 1000000 J'),  # 100 kW
    (10, 9_000_000, 9_000_000, 'the counter did not move in 10 s'),
    (10, 9_000_000, LOST, 'NVML energy counter: GPU is lost'),
    (0, 100, 100, 'the window lasted no time'),
    (0, 100, 1100, 'the window lasted no time')])
def test_windows_without_energy(nvml, clock, seconds, before, after, problem):
    nvml(Board(mj=before))
    reading = measure(find_meter('cuda'), clock, seconds, mj=after)
    assert problem in reading.problem
    assert reading.joules is None and reading.watts is None


def test_gpu_lost_before_the_window(nvml, clock):
    board, = nvml(Board(mj=100))
    meter = find_meter('cuda')
    board.mj = LOST
    reading = measure(meter, clock, 10)
    assert 'GPU is lost' in reading.problem and reading.joules is None
    board.mj = 0  # and the next window is a new one
    assert measure(meter, clock, 10, mj=4000).joules == 4


def test_counter_is_read_twice_in_a_window(nvml):
    nvml(Board(mj=1))
    meter = find_meter('cuda')
    pynvml.nvmlDeviceGetTotalEnergyConsumption.reset_mock()
    measure_idle(meter, 0.01)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption.call_count == 2


# -- which board -------------------------------------------------------------


def test_board_is_found_by_the_uuid_of_torch(nvml, clock, monkeypatch):
    boards = nvml(Board('GPU-aa11'), Board('GPU-ab22'), Board('GPU-cc33'))
    for device, board in (('cuda', 2), ('cuda:0', 2), ('cuda:2', 0)):
        reading = measure(find_meter(device), clock, 10,
                          mj=boards[board].mj + 6000)
        assert reading.joules == 6
    assert [board.mj for board in boards] == [6000, 0, 12000]


def test_divided_gpu(nvml, monkeypatch):
    nvml(Board('GPU-ab22', mig=[0, 0]), Board(mig=[1, 1]))
    assert 'divided (MIG)' in find_meter('cuda:0').reason
    assert find_meter('cuda:1')
    # A part of a divided GPU has its own UUID.
    monkeypatch.setattr(torch.cuda, 'get_device_properties',
                        lambda device: SimpleNamespace(uuid='ffff'))
    assert find_meter('cuda:0').reason.startswith(
        'NVML: GPU-ffff, which torch uses: Not Found; if it is a part of a '
        'divided GPU')


# -- nothing to measure with -------------------------------------------------


@pytest.mark.parametrize('error, text', [
    (NO_LIBRARY, 'NVML: NVML Shared Library Not Found; make nvidia-smi work'),
    (NO_DRIVER, 'NVML: Driver Not Loaded; make nvidia-smi work'),
    (NO_PERMISSION, 'NVML: Insufficient Permissions; make nvidia-smi work')])
def test_nvml_does_not_start(nvml, error, text):
    nvml(Board(), init=error)
    found = find_meter('cuda')
    assert isinstance(found, NoMeter) and not found
    assert found.reason.startswith(text) and '\n' not in found.reason


@pytest.mark.parametrize('error', [NOT_SUPPORTED, NO_PERMISSION])
def test_no_counter(nvml, error):
    nvml(Board(mj=error))
    assert find_meter('cuda').reason == (
        f'NVML: the energy counter of NVIDIA H100 cannot be read: {error}')


def test_no_bindings(nvml, monkeypatch):
    nvml(Board())
    monkeypatch.setitem(sys.modules, 'pynvml', None)
    assert 'pip install nvidia-ml-py' in find_meter('cuda').reason


def test_kinds(nvml):
    nvml(Board())
    assert find_meter('cuda', 'none').reason == 'not asked for'
    assert 'type meta' in find_meter('meta').reason
    for device, kind in (('cpu', 'nvml'), ('cuda', 'rapl')):
        with pytest.raises(UserError, match=f"^meter {kind} .*'{device}'"):
            find_meter(device, kind)
    with pytest.raises(UserError, match="^unknown meter 'wattmeter'; "):
        find_meter('cuda', 'wattmeter')


# -- the board's state -------------------------------------------------------


def test_state(nvml):
    board, = nvml(Board(pids=[os.getpid(), 4, 5]))
    meter = find_meter('cuda')
    assert meter.state() == dict(
        name='NVIDIA H100', driver='580.65.06', sm_clock_mhz=1980,
        memory_clock_mhz=2619, temperature_c=41, power_limit_w=700,
        utilisation_percent=3, other_processes=2)
    board.limit = NOT_SUPPORTED
    board.pids = [1234]  # of the host: this process or another
    assert meter.state()['power_limit_w'] is None
    assert meter.state()['other_processes'] is None
    board.pids = [os.getpid()]
    assert meter.state()['other_processes'] == 0


# -- RAPL --------------------------------------------------------------------

RANGE = 262_143_328_850  # of Intel servers, microjoules


@pytest.fixture
def rapl(tmp_path):
    """Make a tree of domains, and change what their counters say."""

    def write(domains):
        for zone, (name, microjoules) in domains.items():
            folder = tmp_path / f'intel-rapl{zone}'
            folder.mkdir(exist_ok=True)
            (folder / 'name').write_text(name + '\n')
            (folder / 'max_energy_range_uj').write_text(f'{RANGE}\n')
            # At once: a thread may be reading.
            (folder / 'new').write_text(f'{microjoules}\n')
            (folder / 'new').replace(folder / 'energy_uj')
        return tmp_path

    return write


def test_rapl_counts_each_joule_once(rapl, clock):
    root = rapl({':0': ('package-0', 10_000_000), ':0:0': ('core', 7),
                ':0:1': ('dram', 5), ':1': ('package-1', 0),
                ':1:0': ('dram', 0), ':2': ('psys', 0)})
    rapl({'-mmio:0': ('package-0', 0)})  # a second interface
    meter = find_meter('cpu', rapl_root=root)
    assert (meter.method, meter.scope) == (
        'RAPL', 'CPU packages and DRAM of all processes')
    assert meter.state()['domains'] == [
        'intel-rapl:0 package-0', 'intel-rapl:0:1 dram',
        'intel-rapl:1 package-1', 'intel-rapl:1:0 dram']
    meter.begin()
    clock.now += 4
    rapl({':0': ('package-0', 110_000_000), ':0:0': ('core', 90_000_007),
         ':0:1': ('dram', 20_000_005), ':1': ('package-1', 60_000_000),
         ':1:0': ('dram', 8_000_000), ':2': ('psys', 300_000_000)})
    assert meter.end() == pytest.approx((100 + 20 + 60 + 8, 4, ''))


def test_rapl_wraps_more_than_once_in_a_window(rapl, clock):
    step = 100_000_000_000  # 100 kJ, of the 262 that the counter holds
    root = rapl({':0': ('package-0', 0)})
    meter = find_meter('cpu', rapl_root=root)
    assert meter.scope == 'CPU package of all processes'
    meter.begin()
    for number in range(1, 7):
        clock.now += 200  # 500 W
        rapl({':0': ('package-0', number * step % RANGE)})
        if number < 6:
            meter.sample()  # as the thread does every second
    assert meter.end() == pytest.approx((600_000, 1200, ''))


def test_rapl_thread(rapl):
    meter = find_meter('cpu', rapl_root=rapl({':0': ('package-0', 500)}))
    meter.interval = 0.001
    meter.begin()
    # Back to 100, which the two ends of the window alone would not show.
    rapl({':0': ('package-0', 100)})
    seen, deadline = len(meter._samples), time.time() + 10
    while len(meter._samples) < seen + 2 and time.time() < deadline:
        time.sleep(0.001)
    rapl({':0': ('package-0', 600)})
    assert 'it was reset' in meter.end().problem
    seen = len(meter._samples)
    time.sleep(0.01)
    assert len(meter._samples) == seen


def test_rapl_is_not_guessed(rapl, clock):
    root = rapl({':0': ('package-0', 90_000_000_000)})
    meter = find_meter('cpu', rapl_root=root)
    meter.begin()
    clock.now += 5
    rapl({':0': ('package-0', 0)})  # 172 kJ to a wrap: woken from sleep
    assert 'from 90000 to 0 J in 5 s: it was reset' in meter.end().problem
    meter.begin()
    clock.now += 300  # long enough for 262 kJ at 1 kW
    rapl({':0': ('package-0', 9_000_000)})
    assert 'may have wrapped twice' in meter.end().problem
    meter.begin()
    clock.now += 5
    (root / 'intel-rapl:0' / 'energy_uj').unlink()
    reading = meter.end()
    assert 'No such file' in reading.problem and reading.joules is None


def test_no_rapl(rapl, tmp_path, monkeypatch):
    assert 'lists no package' in find_meter('cpu', rapl_root=tmp_path).reason
    root = rapl({':1': ('psys', 0)})
    assert 'lists no package' in find_meter('cpu', rapl_root=root).reason
    rapl({':0': ('package-0', 0)})
    read = Path.read_text

    def for_root_only(path):
        if path.name == 'energy_uj':
            raise PermissionError(13, 'Permission denied', str(path))
        return read(path)

    monkeypatch.setattr(Path, 'read_text', for_root_only)
    reason = find_meter('cpu', 'rapl', root).reason
    assert f'only root may read {root}/intel-rapl:0/energy_uj' in reason
    assert f'sudo chmod a+r {root}/intel-rapl:*/energy_uj' in reason


# -- windows and their summary -----------------------------------------------


def test_window_is_synchronized_and_long_enough(nvml, clock, monkeypatch):
    board, = nvml(Board(mj=0))
    events = []

    def log(event, seconds=0, millijoules=0):
        events.append(event)
        clock.now += seconds
        board.mj += millijoules

    for name in 'begin', 'end':
        method = getattr(meters.NVML, name)
        monkeypatch.setattr(
            meters.NVML, name, lambda self, name=name, method=method: (
                log(name), method(self))[1])
    found = measure_window(find_meter('cuda'), lambda: log('run', 3, 9000), 8,
                           10, lambda: log('sync', 1, 500))
    # Four runs of 3 s to fill 10 s; the synchronization at the end counts.
    assert events == ['sync', 'begin', *['run'] * 4, 'sync', 'end']
    assert found == ((36.5, 13, ''), 32)


def test_failure_ends_the_window(rapl):
    meter = find_meter('cpu', rapl_root=rapl({':0': ('package-0', 0)}))

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_window(meter, fail, 1)
    assert not meter._thread.is_alive()


@pytest.fixture
def meter(nvml):
    nvml(Board())
    return find_meter('cuda')


def test_summary(meter):
    windows = [(Reading(3000, 12), 100), (Reading(3300, 11), 100),
               (Reading(None, 10, 'was reset'), 100), (Reading(2400, 10), 100)]
    state = dict(power_limit_w=700., other_processes=0)
    found = summarize_energy(windows, Reading(500, 10), meter, state, state)
    # 30, 33 and 24 J for an image; 50 W for 12, 11 and 10 s are 6, 5.5, 5 J.
    assert found.joules_per_image == 30
    assert found.net_of_idle == 24  # of 24, 27.5, 19
    assert (found.watts, found.idle_watts) == (250, 50)  # of 250, 300, 240
    assert found.spread == pytest.approx((33 - 24) / 30)
    assert found.seconds == 33
    assert found.problems == ['window 3 of 4: was reset']
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [w['joules'] for w in read['windows']] == [3000, 3300, None, 2400]
    assert read['windows'][2] == dict(joules=None, seconds=10, images=100,
                                      problem='was reset')
    assert read['before'] == read['after'] == state
    assert (read['method'], read['joules_per_image']) == (
        'NVML energy counter', 30)
    assert Energy.from_dict(read) == found


def test_summary_of_nothing(meter):
    bad = Reading(None, 0., 'the window lasted no time')
    found = summarize_energy([(bad, 4), (Reading(50, 10), 0)], bad, meter)
    assert found.problems == [
        'window 1 of 2: the window lasted no time',
        'window 2 of 2: no image was processed',
        'idle: the window lasted no time']
    for name in ('joules_per_image', 'net_of_idle', 'watts', 'idle_watts',
                 'spread'):
        assert getattr(found, name) is None
    json.dumps(found.to_dict(), allow_nan=False)
    assert summarize_energy([], None, meter).joules_per_image is None


def test_summary_names_disturbances(meter):
    before = dict(power_limit_w=700., other_processes=None)
    after = dict(power_limit_w=450., other_processes=2)
    found = summarize_energy([(Reading(40, 4), 10)], Reading(200, 10), meter,
                             before, after)
    assert found.joules_per_image == 4  # given, with all that is wrong
    assert (found.net_of_idle, found.spread) == (None, None)
    for problem, text in zip(found.problems, [
            'the idle device took 20 W', 'lasted 4 s', 'from 700 to 450 W',
            'other processes computed on the GPU: 2'], strict=True):
        assert text in problem
    assert summarize_energy([(Reading(40, 10), 10)], None,
                            meter).problems == []
