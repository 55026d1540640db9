"""Energy: joules worked out by hand from what stand-ins' counters say.

The stand-in for NVML replaces functions of nvidia-ml-py itself, whose names,
signatures, constants and errors are therefore the real ones.
"""
import json
import os
import sys
import time
from itertools import takewhile
from math import isnan
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import create_autospec

import pynvml
import pytest
import torch

from vovnet.benchmark import meters
from vovnet.benchmark.energy import (
    NoMeter,
    Reading,
    find_meter,
    measure_idle,
    measure_window,
    summarise,
)
from vovnet.utils.errors import UserError

ERRORS = {name: getattr(pynvml, f'NVML_ERROR_{name}') for name in (
    'NOT_SUPPORTED', 'NO_PERMISSION', 'LIBRARY_NOT_FOUND',
    'DRIVER_NOT_LOADED', 'GPU_IS_LOST', 'FUNCTION_NOT_FOUND')}


def failure(name):
    return pynvml.NVMLError(ERRORS[name])


NO_MIG = failure('NOT_SUPPORTED')


class Board:
    """A GPU as NVML shows it; an exception as a value is raised."""

    def __init__(self, uuid='GPU-aaaa', name='NVIDIA H100', mj=0, mw=0,
                 mig=NO_MIG, limit=700_000, pids=()):
        self.__dict__.update(vars(), utilisation=3, celsius=41)


def value(found):
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture
def clock(monkeypatch):
    """The meters' clock, which stands still until it is moved."""
    clock = SimpleNamespace(now=1000.)
    monkeypatch.setattr(meters, 'perf_counter', lambda: clock.now)
    return clock


@pytest.fixture
def nvml(monkeypatch):
    """Put boards into the machine: ``nvml(Board(), ...)``."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.delenv('CUDA_DEVICE_ORDER', raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)

    def insert(*boards, init=None):
        clocks = {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}
        functions = dict(
            nvmlInit=lambda: value(init),
            nvmlSystemGetDriverVersion=lambda: '580.65.06',
            nvmlDeviceGetCount=lambda: len(boards),
            nvmlDeviceGetHandleByIndex=lambda index: boards[index],
            nvmlDeviceGetUUID=lambda b: b.uuid,
            nvmlDeviceGetName=lambda b: b.name,
            nvmlDeviceGetMigMode=lambda b: value(b.mig),
            nvmlDeviceGetTotalEnergyConsumption=lambda b: value(b.mj),
            nvmlDeviceGetPowerUsage=lambda b: value(b.mw),
            nvmlDeviceGetEnforcedPowerLimit=lambda b: value(b.limit),
            nvmlDeviceGetClockInfo=lambda b, kind: clocks[kind],
            nvmlDeviceGetTemperature=lambda b, sensor: b.celsius,
            nvmlDeviceGetUtilizationRates=lambda b: SimpleNamespace(
                gpu=b.utilisation),
            nvmlDeviceGetComputeRunningProcesses=lambda b: [
                SimpleNamespace(pid=pid) for pid in b.pids])
        for name, function in functions.items():
            monkeypatch.setattr(pynvml, name, create_autospec(
                getattr(pynvml, name), side_effect=function))
        return boards

    return insert


def window(meter, clock, seconds, **changes):
    """A window at whose end a board has changed."""
    meter.begin()
    clock.now += seconds
    for name, found in changes.items():
        setattr(meter.board._handle, name, found)
    return meter.end()


# -- the energy counter ------------------------------------------------------


def test_counter(nvml, clock):
    nvml(Board(mj=5_000_000))
    meter = find_meter('cuda', 'nvml')
    assert (meter.method, meter.scope) == ('NVML energy counter', 'GPU board')
    # 3 kJ in 12 s.
    reading = window(meter, clock, 12, mj=8_000_000)
    assert reading == (3000, 12, '') and reading.watts == 250
    # The next window begins where the counter stands.
    assert window(meter, clock, 10, mj=8_001_000).joules == 1


def test_counter_wraps(nvml, clock):
    nvml(Board(mj=2**64 - 500_000))
    # 500 J up to the end of its 64 bits, 2000 J after it.
    assert window(find_meter('cuda'), clock, 10, mj=2_000_000) == (
        2500, 10, '')


@pytest.mark.parametrize('before, after, problem', [
    (9_000_000, 700_000, 'from 9000 to 700 J in 10 s: it was reset'),
    (9_000_000, 0, 'from 9000 to 0 J in 10 s: it was reset'),
    (0, 10**9, 'from 0 to 1000000 J'),  # 100 kW
    (9_000_000, 9_000_000, 'nothing was counted in 10 s'),
    (9_000_000, failure('GPU_IS_LOST'), 'NVML energy counter: GPU is lost')])
def test_what_is_no_energy(nvml, clock, before, after, problem):
    nvml(Board(mj=before))
    reading = window(find_meter('cuda'), clock, 10, mj=after)
    assert problem in reading.problem
    assert isnan(reading.joules) and isnan(reading.watts)


@pytest.mark.parametrize('gained', [0, 1000])
def test_window_of_no_time(nvml, clock, gained):
    nvml(Board(mj=100))
    reading = window(find_meter('cuda'), clock, 0, mj=100 + gained)
    assert reading.problem == 'the window lasted no time'
    assert isnan(reading.joules) and isnan(reading.watts)


def test_lost_before_the_window(nvml, clock):
    board, = nvml(Board(mj=100))
    meter = find_meter('cuda')
    board.mj = failure('GPU_IS_LOST')
    reading = window(meter, clock, 10)
    assert 'GPU is lost' in reading.problem and isnan(reading.joules)
    board.mj = 0  # and the next window is a new one
    assert window(meter, clock, 10, mj=4000).joules == 4


# -- polling, where there is no counter --------------------------------------


@pytest.mark.parametrize('missing', ['NOT_SUPPORTED', 'FUNCTION_NOT_FOUND'])
def test_power_is_integrated_over_real_times(nvml, clock, missing):
    board, = nvml(Board(mj=failure(missing), mw=100_000))
    meter = find_meter('cuda')
    assert meter.method == 'NVML power polling, every 100 ms (no counter)'
    meter.interval = 3600  # no thread: samples at times of our own
    meter.begin()
    for seconds, milliwatts in ((0.1, 200_000), (0.4, 200_000)):
        clock.now += seconds
        board.mw = milliwatts
        meter.sample()
    clock.now += 2
    board.mw = 50_000
    # 150 W for 0.1 s, 200 W for 0.4 s, 125 W for 2 s
    assert meter.end() == pytest.approx((15 + 80 + 250, 2.5, ''))


def test_thread_polls(nvml):
    nvml(Board(mj=failure('NOT_SUPPORTED'), mw=120_000))
    meter = find_meter('cuda')
    meter.interval = 0.001
    reading = measure_idle(meter, 0.05)
    assert pynvml.nvmlDeviceGetPowerUsage.call_count > 5
    assert reading.seconds >= 0.05 and reading.problem == ''
    assert reading.joules == pytest.approx(120 * reading.seconds)
    calls = pynvml.nvmlDeviceGetPowerUsage.call_count
    time.sleep(0.01)
    assert pynvml.nvmlDeviceGetPowerUsage.call_count == calls


def test_counter_is_read_twice_and_not_polled(nvml, clock):
    nvml(Board(mj=1))
    meter = find_meter('cuda')
    pynvml.nvmlDeviceGetTotalEnergyConsumption.reset_mock()
    measure_idle(meter, 0.03)
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption.call_count == 2
    assert not pynvml.nvmlDeviceGetPowerUsage.called


# -- which board -------------------------------------------------------------

UUIDS = ['GPU-aa11', 'GPU-ab22', 'GPU-cc33']


@pytest.mark.parametrize('visible, device, board', [
    (None, 'cuda', 0),
    (None, 'cuda:2', 2),
    ('2,0', 'cuda:0', 2),
    ('2,0', 'cuda:1', 0),
    (' 1 , 2', 'cuda:1', 2),
    ('1', 'cuda', 1),
    ('1,-1,0', 'cuda:0', 1),
    ('GPU-cc33,GPU-aa11', 'cuda:1', 0),
    ('GPU-ab,GPU-c', 'cuda:0', 1),
    ('GPU-ab,GPU-c', 'cuda:1', 2)])
def test_visible_devices(nvml, clock, monkeypatch, visible, device, board):
    boards = nvml(*map(Board, UUIDS))
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    meter = find_meter(device)
    meter.begin()
    clock.now += 10
    for number, other in enumerate(boards, 1):
        other.mj = number * 1000
    assert meter.end().joules == board + 1


@pytest.mark.parametrize('visible, device, left', [
    ('', 'cuda', 0), ('-1', 'cuda', 0), ('no', 'cuda', 0), ('1', 'cuda:1', 1),
    ('0,0', 'cuda:0', 0),  # named twice
    ('GPU-a', 'cuda:0', 0),  # could be either
    ('0,7,1', 'cuda:1', 1),  # the list ends at the one that is not there
    (None, 'cuda:3', 3)])
def test_device_that_is_hidden(nvml, monkeypatch, visible, device, left):
    nvml(*map(Board, UUIDS))
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    found = find_meter(device)
    assert not found and found.reason.endswith(
        f'NVML sees 3 GPUs, of which CUDA_VISIBLE_DEVICES leaves {left}')


@pytest.mark.parametrize('visible', [
    None, '', '0', '2,1', '1,1', '-1', '0,-1,1', ' 2, 0', 'x', '0,9', '9',
    'GPU-', 'GPU-a', 'GPU-aa', 'GPU-cc33,GPU-ab', 'GPU-aa,GPU-a', 'GPU-dd',
    'GPU-aa11,GPU-aa', 'GPU-ab, GPU-cc', 'GPU-aa,', 'GPU-ab,2', '2,GPU-ab'])
def test_visible_devices_as_torch_reads_them(monkeypatch, visible):
    if visible is None:
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    else:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    for count in (1, 3):
        theirs = torch.cuda._parse_visible_devices()
        if theirs and isinstance(theirs[0], str):
            theirs = torch.cuda._transform_uuid_to_ordinals(
                theirs, UUIDS[:count])
        # As torch does with them: up to the first that is not there.
        theirs = list(takewhile(count.__gt__, theirs))
        assert meters.visible_gpus(UUIDS[:count]) == theirs


def test_board_by_the_uuid_that_torch_tells(nvml, clock, monkeypatch):
    # CUDA counts the fastest first: its 0 is NVML's 1.
    boards = nvml(Board('GPU-aa11', 'NVIDIA T400'), Board('GPU-ab22'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    uuids = {0: 'ab22', 1: 'aa11', 2: 'ffff'}
    monkeypatch.setattr(
        torch.cuda, 'get_device_properties',
        lambda device: SimpleNamespace(uuid=uuids[device.index]))
    reading = window(find_meter('cuda:0'), clock, 10, mj=6000)
    assert reading.joules == 6 and boards[1].mj == 6000
    # A part of a divided GPU has a UUID of its own.
    assert 'knows no GPU-ffff' in find_meter('cuda:2').reason


def test_different_gpus_without_uuids(nvml, monkeypatch):
    nvml(Board('GPU-aa11', 'NVIDIA T400'), Board('GPU-ab22'))
    assert 'CUDA_DEVICE_ORDER=PCI_BUS_ID' in find_meter('cuda').reason
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', 'GPU-ab')
    assert find_meter('cuda').state()['name'] == 'NVIDIA H100'
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1')
    monkeypatch.setenv('CUDA_DEVICE_ORDER', 'PCI_BUS_ID')
    assert find_meter('cuda').state()['name'] == 'NVIDIA H100'


@pytest.mark.parametrize('kind', ['nvml', 'zeus'])
def test_divided_gpu(nvml, zeus, monkeypatch, kind):
    nvml(Board(mig=[1, 1]), Board('GPU-ab22', mig=[0, 0]))
    assert 'divided (MIG)' in find_meter('cuda:0', kind).reason
    assert find_meter('cuda:1', kind)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', 'MIG-GPU-aaaa/1/0')
    assert 'divided (MIG)' in find_meter('cuda:0', kind).reason


# -- nothing to measure with -------------------------------------------------


@pytest.mark.parametrize('name, text', [
    ('LIBRARY_NOT_FOUND', 'NVML: NVML Shared Library Not Found; does nvidia'),
    ('DRIVER_NOT_LOADED', 'NVML: Driver Not Loaded; does nvidia-smi work'),
    ('NO_PERMISSION', 'NVML: Insufficient Permissions; does nvidia-smi')])
def test_nvml_does_not_start(nvml, name, text):
    nvml(Board(), init=failure(name))
    found = find_meter('cuda')
    assert isinstance(found, NoMeter) and not found
    assert found.reason.startswith(text) and '\n' not in found.reason


@pytest.mark.parametrize('mj, mw', [
    ('NO_PERMISSION', 'NOT_SUPPORTED'), ('NOT_SUPPORTED', 'NO_PERMISSION')])
def test_neither_energy_nor_power(nvml, mj, mw):
    nvml(Board(mj=failure(mj), mw=failure(mw)))
    assert find_meter('cuda').reason == (
        'NVML: NVIDIA H100 tells neither its energy nor its power: '
        'Insufficient Permissions')


def test_no_bindings(nvml, monkeypatch):
    nvml(Board())
    monkeypatch.setitem(sys.modules, 'pynvml', None)
    assert 'pip install nvidia-ml-py' in find_meter('cuda').reason


def test_kinds(nvml):
    nvml(Board())
    assert find_meter('cuda', 'none').reason == 'not asked for'
    assert 'type meta' in find_meter('meta').reason
    for device, kind in (('cpu', 'nvml'), ('cpu', 'zeus'), ('cuda', 'rapl')):
        with pytest.raises(UserError, match=f"^meter {kind}: .*'{device}'"):
            find_meter(device, kind)
    with pytest.raises(UserError, match="^meter 'wattmeter': "):
        find_meter('cuda', 'wattmeter')


# -- the board's state -------------------------------------------------------


def test_state(nvml):
    board, = nvml(Board(pids=[os.getpid(), 4, 5]))
    meter = find_meter('cuda')
    assert meter.state() == dict(
        name='NVIDIA H100', driver='580.65.06', sm_clock_mhz=1980,
        memory_clock_mhz=2619, temperature_c=41, power_limit_w=700,
        utilisation_percent=3, other_processes=2)
    board.limit = failure('NOT_SUPPORTED')
    board.pids = [1234]  # of the host: this process or another
    assert meter.state()['power_limit_w'] is None
    assert meter.state()['other_processes'] is None
    board.pids = [os.getpid()]
    assert meter.state()['other_processes'] == 0


# -- zeus --------------------------------------------------------------------


@pytest.fixture
def zeus(monkeypatch):
    """A stand-in with the calls of zeus 0.16."""
    package, module = ModuleType('zeus'), ModuleType('zeus.monitor')
    package.__version__ = '0.16.0'

    class ZeusMonitor:
        joules, seconds, fails = 30., 10., None

        def __init__(self, gpu_indices=None, cpu_indices=None,
                     approx_instant_energy=False, log_file=None,
                     sync_execution_with='torch'):
            assert cpu_indices == [] and not approx_instant_energy
            if self.fails:
                raise self.fails
            self.gpu_indices, self.open = gpu_indices, set()

        def begin_window(self, key, sync_execution=True, restart=False):
            assert sync_execution and (restart or key not in self.open)
            self.open.add(key)

        def end_window(self, key, sync_execution=True, cancel=False):
            assert sync_execution and not cancel
            self.open.remove(key)
            return SimpleNamespace(
                time=self.seconds, cpu_energy=None, dram_energy=None,
                gpu_energy={i: self.joules * (i + 1)
                            for i in self.gpu_indices})

    module.ZeusMonitor = ZeusMonitor
    monkeypatch.setitem(sys.modules, 'zeus', package)
    monkeypatch.setitem(sys.modules, 'zeus.monitor', module)
    return ZeusMonitor


def test_zeus(nvml, zeus):
    nvml(*map(Board, UUIDS))
    meter = find_meter('cuda:1', 'zeus')
    assert (meter.method, meter.scope) == ('Zeus 0.16.0 (NVML)', 'GPU board')
    assert meter.state()['driver'] == '580.65.06'
    assert measure_idle(meter, 0) == (60, 10, '')  # GPU 1's
    zeus.joules = 0.  # shorter than a step of the counter
    assert 'nothing was counted' in measure_idle(meter, 0).problem
    zeus.joules = -5.  # the driver was loaded anew
    assert isnan(measure_idle(meter, 0).joules)


def test_zeus_numbers_by_pci_bus(nvml, zeus, monkeypatch):
    nvml(*map(Board, UUIDS))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_device_properties',
                        lambda device: SimpleNamespace(uuid='cc33'))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1,2')
    # Torch's 0 is NVML's 2, the second of those that zeus sees.
    assert find_meter('cuda:0', 'zeus')._monitor.gpu_indices == [1]
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    assert 'PCI_BUS_ID' in find_meter('cuda:0', 'zeus').reason


def test_zeus_refuses(nvml, zeus, monkeypatch):
    nvml(Board())
    zeus.fails = ValueError('invalid literal')
    assert find_meter('cuda', 'zeus').reason == (
        'zeus: ValueError: invalid literal')
    monkeypatch.setitem(sys.modules, 'zeus', None)
    with pytest.raises(UserError, match='^meter zeus: .*pip install zeus'):
        find_meter('cuda', 'zeus')


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
    rapl({'-mmio:0': ('package-0', 0)})  # the same by another way
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
    assert 'may have begun again twice' in meter.end().problem
    meter.begin()
    clock.now += 5
    (root / 'intel-rapl:0' / 'energy_uj').unlink()
    reading = meter.end()
    assert 'No such file' in reading.problem and isnan(reading.joules)


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
    assert f'{root}/intel-rapl:0/energy_uj may be read by root only' in reason
    assert f'sudo chmod a+r {root}/intel-rapl:*/energy_uj' in reason


# -- windows and their summary -----------------------------------------------


def test_window_is_synchronised_and_long_enough(nvml, clock):
    board, = nvml(Board(mj=0))
    events = []

    class Meter(meters.NVMLCounter):

        def begin(self):
            events.append('begin')
            super().begin()

        def end(self):
            events.append('end')
            return super().end()

    def run():
        clock.now += 3
        board.mj += 9000
        events.append('run')

    def sync():
        clock.now += 1
        board.mj += 500
        events.append('sync')

    found = measure_window(Meter(find_meter('cuda').board), run, 8, 10, sync,
                           lambda: clock.now)
    # Four runs of 3 s to fill 10 s; the synchronisation at the end counts.
    assert events == ['sync', 'begin', *['run'] * 4, 'sync', 'end']
    assert found == ((36.5, 13, ''), 32)


@pytest.mark.parametrize('measure', [
    lambda meter, fails: measure_idle(meter, 1, fails),
    lambda meter, fails: measure_window(meter, lambda: fails(1), 1)])
def test_failure_ends_the_window(nvml, measure):
    nvml(Board(mj=failure('NOT_SUPPORTED'), mw=1))
    meter = find_meter('cuda')

    def fails(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(meter, fails)
    assert not meter._thread.is_alive()


@pytest.fixture
def meter(nvml):
    nvml(Board())
    return find_meter('cuda')


def test_summary(meter):
    windows = [(Reading(3000, 12), 100), (Reading(3300, 11), 100),
               (Reading(float('nan'), 10, 'was reset'), 100),
               (Reading(2400, 10), 100)]
    state = dict(power_limit_w=700., other_processes=0)
    found = summarise(windows, Reading(500, 10), meter, state, state)
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


def test_summary_of_nothing(meter):
    bad = Reading(float('nan'), 0., 'the window lasted no time')
    found = summarise([(bad, 4), (Reading(50, 10), 0)], bad, meter)
    assert found.problems == [
        'window 1 of 2: the window lasted no time',
        'window 2 of 2: no image was processed',
        'idle: the window lasted no time']
    for name in ('joules_per_image', 'net_of_idle', 'watts', 'idle_watts',
                 'spread'):
        assert getattr(found, name) is None
    json.dumps(found.to_dict(), allow_nan=False)
    assert summarise([], None, meter).joules_per_image is None


def test_summary_says_what_disturbs(meter):
    before = dict(power_limit_w=700., other_processes=None)
    after = dict(power_limit_w=450., other_processes=2)
    found = summarise([(Reading(40, 4), 10)], Reading(200, 10), meter,
                      before, after)
    assert found.joules_per_image == 4  # given, with all that is wrong
    assert (found.net_of_idle, found.spread) == (None, None)
    assert [next(word for word in ('idle', 'lasted 4 s', 'limit', 'beside')
                 if word in line) for line in found.problems] == [
        'idle', 'lasted 4 s', 'limit', 'beside']
    assert summarise([(Reading(40, 10), 10)], None, meter).problems == []
