"""Cost of a training step: VoVNet in each mode of ``with_cp``, beside timm's.

Both libraries get the same weights and images, and their outputs are compared.
timm's networks (checked with 1.0.31) run ``forward_intermediates``, which
gives the maps of the four stages; ``set_grad_checkpointing`` puts
``torch.utils.checkpoint`` around each of their blocks.
"""
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models import VoVNet
from ..models.backbones.vovnet import CHECKPOINTS
from ..utils.devices import find_device
from ..utils.errors import UserError
from ..utils.table import (
    Column,
    Report,
    format_columns,
    format_csv,
    format_page,
    save_report,
)
from .environment import collect_environment
from .latency import DEVICE_TYPES, Latency, schedule_turns, time_run
from .memory import measure_memory
from .model import DTYPES
from .report import MARK, MEMORY, SPREAD

# timm's name of an arch. Its networks have the stem of V2 and eSE only in the
# last block of a stage, which are options here.
TIMM = {
    'V1-39': 'vovnet39a', 'V1-57': 'vovnet57a',
    'V2-19-slim-dw': 'ese_vovnet19b_slim_dw', 'V2-19-dw': 'ese_vovnet19b_dw',
    'V2-19-slim': 'ese_vovnet19b_slim', 'V2-39': 'ese_vovnet39b',
    'V2-57': 'ese_vovnet57b', 'V2-99': 'ese_vovnet99b',
}
MAX_SPREAD = 0.2


class TrainingCase(NamedTuple):
    """A network to be trained.

    Attributes:
        arch: A key of :data:`TIMM`.
        library: 'timm' or 'vovnet'.
        with_cp: As for :class:`~vovnet.models.VoVNet`; timm has False and
            'block', its own checkpoints.
    """
    arch: str
    library: str
    with_cp: bool | str

    @property
    def name(self) -> str:
        """Name in the tables."""
        if self.library == 'timm':
            blocks = ', grad_checkpointing' if self.with_cp else ''
            return f'timm {TIMM[self.arch]}{blocks}'
        return f'VoVNet {self.arch}, with_cp={self.with_cp!r}'

    def build(self, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Build the network on the CPU, in training mode.

        Args:
            weights: Of timm's network; random without.
        """
        if self.library == 'timm':
            network = import_timm().create_model(TIMM[self.arch],
                                                 num_classes=0)
            network.set_grad_checkpointing(bool(self.with_cp))
        else:
            ese = dict(ese='last') if self.arch.startswith('V2') else {}
            network = VoVNet(self.arch, stem='strided', with_cp=self.with_cp,
                             **ese)
        if weights is not None:
            network.load_state_dict(weights)
        return network.train()


# Library and with_cp of the cases of each arch; the first is the reference.
CASES = (('timm', False), ('timm', 'block'),
         *(('vovnet', mode) for mode in (False, *CHECKPOINTS)))


@dataclass(frozen=True)
class Setup:
    """Settings of a training step.

    Attributes:
        shape: Height and width of the images, px, or one number for both.
        dtype: 'fp32', or the type of autocast, a name of
            :data:`~vovnet.benchmark.model.DTYPES`.
        rounds: In each, all networks of an arch take a step, in turns.
    """
    shape: Sequence[int] = (512, )
    batch_size: int = 2
    device: str = 'cpu'
    dtype: str = 'fp32'
    channels_last: bool = False
    rounds: int = 7

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, px."""
        return (*self.shape, *self.shape)[:2]

    def check(self) -> None:
        """Raise a UserError, which names the option, for wrong values."""
        shape = ' '.join(map(str, self.shape))
        if len(self.shape) not in (1, 2) or min(self.shape) < 64:
            # Batch norm has to find several pixels at stride 32.
            raise UserError(f'--shape {shape}: give height and width, or one '
                            'number for both, at least 64')
        for option, value in (('--batch-size', self.batch_size),
                              ('--rounds', self.rounds)):
            if value < 1:
                raise UserError(f'{option} {value}: give at least 1')

    def describe(self) -> dict[str, Any]:
        """Return the settings in words."""
        return {
            'date': time.strftime('%Y-%m-%d'),
            'timed': ('forward and backward in training mode, without an '
                      'optimizer'),
            'loss': 'sum of the means of the maps of the four stages',
            'input': f'noise of {"x".join(map(str, self.size))} px',
            'batch': self.batch_size,
            'device': self.device,
            'dtype': self.dtype + ' (autocast)' * (self.dtype != 'fp32'),
            'memory format': ('channels last' if self.channels_last else
                              'contiguous'),
            'rounds': f'{self.rounds} of a step of each network, in turns',
        }


class Step:
    """A training step: forward and backward; the gradients are dropped.

    The loss is the sum of the means of the four outputs. Beside their
    gradients it needs no memory, and these all exist when the backward pass
    of the network begins, like those that come back from a neck. The images
    are noise, equal for all networks.
    """

    def __init__(self, network: nn.Module, setup: Setup) -> None:
        layout = dict(memory_format=torch.channels_last) if \
            setup.channels_last else {}
        noise = torch.randn(setup.batch_size, 3, *setup.size,
                            generator=torch.Generator().manual_seed(0))
        self.network = network.to(setup.device, **layout)
        self.images = noise.to(setup.device, **layout)
        self._dtype = DTYPES[setup.dtype]

    def forward(self) -> Sequence[Tensor]:
        """Compute the maps of the four stages, to be differentiated."""
        with torch.autocast(self.images.device.type, self._dtype,
                            self._dtype != torch.float32):
            if isinstance(self.network, VoVNet):
                return self.network(self.images)
            return self.network.forward_intermediates(
                self.images, indices=[1, 2, 3, 4], intermediates_only=True)

    def __call__(self) -> None:
        """Take the step."""
        sum(out.mean(dtype=torch.float) for out in self.forward()).backward()
        self.network.zero_grad(set_to_none=True)


def import_timm() -> ModuleType:
    """Import timm; raise a UserError if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError('timm, which VoVNet is compared with, is not '
                        'installed; pip install timm') from error
    return timm


def count_steps(archs: Sequence[str], setup: Setup) -> int:
    """Return how often :func:`measure_training` reports progress."""
    return len(archs) * len(CASES) * (1 + setup.rounds)


def measure_training(archs: Sequence[str], setup: Setup,
                     progress: Callable[[str], None] = lambda _: None,
                     save: Callable[[dict[str, Any]], None] = lambda _: None
                     ) -> dict[str, Any]:
    """Measure training steps of VoVNet and of timm's networks, side by side.

    Args:
        archs: Keys of :data:`TIMM`.
        setup: Settings of a step.
        progress: Called with what comes next, :func:`count_steps` times.
        save: Called after each arch with the report so far.

    Returns:
        A report for :func:`write_markdown`, :func:`write_csv` and JSON, with
        ``conditions`` and ``results``, in bytes and seconds: arch by arch in
        the order of :data:`CASES`, ``difference`` of the outputs from timm's
        as a share of the largest, ``memory_ratio`` of the peaks (tensors) and
        ``time_ratio`` of the median times over timm's.

    Raises:
        UserError: If timm has no such arch or is not installed, or the setup
            is wrong or cannot be used here.
    """
    for arch in archs:
        if arch not in TIMM:
            raise UserError(f'arch {arch}: timm has none like it; choose from '
                            f'{", ".join(TIMM)}')
    setup.check()
    timm, device = import_timm(), find_device(setup.device, DEVICE_TYPES)
    if device.type == 'cuda':
        torch.backends.cudnn.benchmark = True  # all shapes are fixed
    report = dict(
        conditions=dict(setup.describe(), **collect_environment(device),
                        timm=timm.__version__),
        legend=LEGEND, results=[])
    for arch in archs:
        report['results'] += _measure_arch(arch, setup, device, progress)
        save(report)
    return report


def _measure_arch(arch: str, setup: Setup, device: torch.device,
                  progress: Callable[[str], None]) -> list[dict[str, Any]]:
    cases = [TrainingCase(arch, *which) for which in CASES]
    weights = cases[0].build().state_dict()
    steps, memories, outputs, differences = [], [], [], []
    for case in cases:
        progress(f'memory of {case.name}')

        def build(case: TrainingCase = case) -> tuple:
            step = Step(case.build(weights), setup)
            return step.network, [step.images], step

        memory, step = measure_memory(build, device)
        memories.append(memory)
        steps.append(step)
        found = [out.detach().float() for out in step.forward()]
        outputs = outputs or found
        differences.append(max(
            float((a - b).abs().max() / a.abs().max())
            for a, b in zip(outputs, found, strict=True)))
        del found
    outputs.clear()
    # Each step takes seconds, and has been run three times by now.
    latencies = [Latency(warm_up_runs=3) for _ in cases]
    for index in schedule_turns(len(steps), setup.rounds, 'interleaved'):
        progress(f'time of {cases[index].name}')
        latencies[index].repeats.append([time_run(steps[index], device)])
        latencies[index].batches.append([0])
    return [
        dict(name=case.name, **case._asdict(), memory=memory.to_dict(),
             latency=latency.to_dict(), difference=difference,
             memory_ratio=memory.tensors / memories[0].tensors,
             time_ratio=latency.median / latencies[0].median)
        for case, memory, latency, difference in zip(
            cases, memories, latencies, differences)]


COLUMNS = (
    MEMORY,
    Column("of timm's", 'memory_ratio', '.2f'),
    Column('system, MB', 'memory.system', '.0f', 1e6),
    Column('time, s', 'latency.median', '.3g'),
    Column("of timm's", 'time_ratio', '.2f'),
    SPREAD,
)

LEGEND = (
    'Peak memory: weights, buffers, images, and the most that torch had '
    'allocated at once in a step: what is kept for the backward pass, '
    'temporary maps, gradients of the weights. Not in it: an optimizer, and '
    'what oneDNN or cuDNN allocate past torch; that is in the column system, '
    'the growth of the process or, on CUDA, of what the driver says is in '
    'use.',
    'Time: median of the steps. Spread: width of the central 90 % interval '
    f'of the times, relative to the median; where it is marked{MARK} (above '
    f'{MAX_SPREAD:.0%}) something disturbed them.',
)


def list_rows(report: Report) -> list[list[str]]:
    """Return the header and a row for each network, as text."""
    results = report['results']
    rows = [['network', *(column.title for column in COLUMNS)], *zip(
        (result['name'] for result in results),
        *format_columns(COLUMNS, results))]
    for row, result in enumerate(results, 1):
        if (result['latency']['spread'] or 0) > MAX_SPREAD:
            rows[row] = [*rows[row][:-1], rows[row][-1] + MARK]
    return rows


def write_markdown(report: Report) -> str:
    """Return the table with its conditions, for a page or a terminal."""
    difference = max(result['difference'] for result in report['results'])
    outputs = (f'Outputs differ from those of timm by at most '
               f'{difference:.1g} of the largest.' if difference else
               'All outputs are equal to those of timm, bit by bit.')
    return format_page(list_rows(report), report['conditions'], LEGEND,
                       [outputs])


def write_csv(report: Report) -> str:
    """Return a line for each network, with the conditions, not rounded."""
    rows = [[*TrainingCase._fields, 'peak memory', 'system', 'median time',
             'spread', 'memory ratio', 'time ratio', 'difference',
             *report['conditions']]]
    for result in report['results']:
        memory, latency = result['memory'], result['latency']
        rows.append([
            *(result[name] for name in TrainingCase._fields),
            memory['tensors'], memory['system'], latency['median'],
            latency['spread'], result['memory_ratio'], result['time_ratio'],
            result['difference'], *report['conditions'].values()])
    return format_csv(rows)


def save(report: Report, files: Sequence[str]) -> None:
    """Write a report into files, each in the format of its suffix."""
    save_report(report, files, write_markdown, write_csv, indent=1)
