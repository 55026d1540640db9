"""What a training step costs: VoVNet in each of its modes, beside timm's.

Own work. timm 1.0.31 (``models/vovnet.py``, read) is run as it is published:
``forward_intermediates`` gives the maps of the four stages, and
``set_grad_checkpointing`` puts ``torch.utils.checkpoint`` around each block.
Both libraries get the same weights and images, and the outputs are compared.
"""
import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models import VoVNet
from ..models.backbones.vovnet import CHECKPOINTS
from ..utils.devices import find_device
from ..utils.errors import UserError
from .environment import collect_environment
from .latency import DEVICE_TYPES, Latency, schedule_turns, time_run
from .memory import Memory, measure_memory
from .model import DTYPES
from .report import MARK, NONE, markdown_table

# timm's name of an arch. Its networks have the stem of V2 and eSE only in the
# last block of a stage, which are options here.
TIMM = {
    'V1-39': 'vovnet39a', 'V1-57': 'vovnet57a',
    'V2-19-slim-dw': 'ese_vovnet19b_slim_dw', 'V2-19-dw': 'ese_vovnet19b_dw',
    'V2-19-slim': 'ese_vovnet19b_slim', 'V2-39': 'ese_vovnet39b',
    'V2-57': 'ese_vovnet57b', 'V2-99': 'ese_vovnet99b',
}
MAX_SPREAD = 0.2


class Contender(NamedTuple):
    """A network that takes part.

    Attributes:
        arch: A key of :data:`TIMM`.
        library: 'timm' or 'vovnet'.
        with_cp: As :class:`~vovnet.models.VoVNet` has it; 'block' of timm's
            are its own checkpoints.
    """
    arch: str
    library: str
    with_cp: bool | str

    @property
    def name(self) -> str:
        """For tables."""
        if self.library == 'timm':
            blocks = ', grad_checkpointing' if self.with_cp else ''
            return f'timm {TIMM[self.arch]}{blocks}'
        return f'VoVNet {self.arch}, with_cp={self.with_cp!r}'

    def build(self, weights: dict[str, Tensor] | None = None) -> nn.Module:
        """Build it, in training mode.

        Args:
            weights (dict[str, Tensor], optional): Of timm's network; random
                without.

        Returns:
            nn.Module: On the CPU.
        """
        if self.library == 'timm':
            network = find_timm().create_model(TIMM[self.arch], num_classes=0)
            network.set_grad_checkpointing(bool(self.with_cp))
        else:
            ese = dict(ese='last') if self.arch.startswith('V2') else {}
            network = VoVNet(self.arch, stem='strided', with_cp=self.with_cp,
                             **ese)
        if weights is not None:
            network.load_state_dict(weights)
        return network.train()


CONTENDERS = (('timm', False), ('timm', 'block'),
              *(('vovnet', mode) for mode in (False, *CHECKPOINTS)))


@dataclass(frozen=True)
class Setup:
    """What a step is, and how often it is run.

    Attributes:
        shape: Height and width of the images, px, or one number for both.
        batch_size: Images of a step.
        device: As torch names it.
        dtype: 'fp32', or the type of autocast, a name of
            :data:`~vovnet.benchmark.model.DTYPES`.
        channels_last: Whether channels are the fastest dimension in memory.
        rounds: In each, all networks of an arch run a step, in turns.
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
        """Refuse what cannot be run.

        Raises:
            UserError: Naming the option.
        """
        shape = ' '.join(map(str, self.shape))
        if len(self.shape) not in (1, 2) or min(self.shape) < 64:
            # Batch norm has to find several pixels at stride 32.
            raise UserError(f'--shape {shape}: give height and width, or one '
                            'number for both, at least 64')
        for option, value in (('--batch-size', self.batch_size),
                              ('--rounds', self.rounds)):
            if value < 1:
                raise UserError(f'{option} {value}: give at least 1')


class Step:
    """A training step: forward, backward, and the gradients are dropped.

    The loss is the sum of the means of the four outputs. It needs no memory
    but for their gradients, which are all there when the backward pass of the
    network begins, like those that come back from a neck.

    Args:
        network (nn.Module): timm's or :class:`~vovnet.models.VoVNet`, in
            training mode. It is moved to the device.
        setup (Setup): Where and on what it runs.

    Attributes:
        network (nn.Module): The network.
        images (Tensor): Noise (N, 3, H, W), the same for all networks.
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
        """Run it once."""
        sum(out.mean(dtype=torch.float) for out in self.forward()).backward()
        self.network.zero_grad(set_to_none=True)


@dataclass
class Result:
    """What was found about one network.

    Attributes:
        contender: The network.
        memory: Peak of a step: weights, buffers, images, and the most that
            torch had allocated at once, gradients included.
        latency: Of the steps.
        difference: Of its outputs from timm's, as a share of the largest.
        memory_ratio: Its peak (tensors) over timm's.
        time_ratio: Its median time over timm's.
    """
    contender: Contender
    memory: Memory
    latency: Latency
    difference: float
    memory_ratio: float = 1.
    time_ratio: float = 1.

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; bytes and seconds."""
        return dict(
            name=self.contender.name, **self.contender._asdict(),
            memory=self.memory.to_dict(), latency=self.latency.to_dict(),
            difference=self.difference, memory_ratio=self.memory_ratio,
            time_ratio=self.time_ratio)


@dataclass
class Report:
    """Results, and what they were measured on.

    Attributes:
        conditions: Of all results.
        results: Arch by arch, in the order of :data:`CONTENDERS`.
    """
    conditions: dict[str, Any]
    results: list[Result]

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return dict(conditions=self.conditions, legend=LEGEND,
                    results=[result.to_dict() for result in self.results])


def find_timm() -> ModuleType:
    """Import timm.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise UserError('timm, which VoVNet is measured beside, is not '
                        'installed: pip install timm') from error
    return timm


def num_steps(archs: Sequence[str], setup: Setup) -> int:
    """How often :func:`measure_training` reports progress.

    Args:
        archs (Sequence[str]): The archs.
        setup (Setup): Has the rounds.

    Returns:
        int: See above.
    """
    return len(archs) * len(CONTENDERS) * (1 + setup.rounds)


def measure_training(archs: Sequence[str], setup: Setup,
                     progress: Callable[[str], None] = lambda _: None,
                     save: Callable[[Report], None] = lambda _: None
                     ) -> Report:
    """Measure training steps of VoVNet and of timm's, side by side.

    Args:
        archs (Sequence[str]): Keys of :data:`TIMM`.
        setup (Setup): What a step is.
        progress (Callable): Called with what comes next, for each network
            and for each of its rounds.
        save (Callable): Called after each arch with what there is.

    Returns:
        Report: What was found.

    Raises:
        UserError: If an arch is not one of timm's, timm is not installed, the
            device is not there, or the setup cannot be run.
    """
    for arch in archs:
        if arch not in TIMM:
            raise UserError(f'arch {arch}: timm has none like it; choose from '
                            f'{", ".join(TIMM)}')
    setup.check()
    timm, device = find_timm(), find_device(setup.device, DEVICE_TYPES)
    if device.type == 'cuda':
        torch.backends.cudnn.benchmark = True  # all shapes are fixed
    on = dict(_settings(setup), **collect_environment(device),
              timm=timm.__version__)
    report = Report(on, [])
    for arch in archs:
        report.results += _measure_arch(arch, setup, device, progress)
        save(report)
    return report


def _measure_arch(arch: str, setup: Setup, device: torch.device,
                  progress: Callable[[str], None]) -> list[Result]:
    contenders = [Contender(arch, *which) for which in CONTENDERS]
    weights = contenders[0].build().state_dict()
    steps, memories, outputs, differences = [], [], [], []
    for contender in contenders:
        progress(f'memory of {contender.name}')

        def build(contender: Contender = contender) -> tuple:
            step = Step(contender.build(weights), setup)
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
    # What is compared takes seconds, and has been run three times by now.
    latencies = [Latency(warm_up_runs=3) for _ in contenders]
    for index in schedule_turns(len(steps), setup.rounds, 'interleaved'):
        progress(f'time of {contenders[index].name}')
        latencies[index].repeats.append([time_run(steps[index], device)])
        latencies[index].batches.append([0])
    return [
        Result(contender, memory, latency, difference,
               memory.tensors / memories[0].tensors,
               latency.median / latencies[0].median)
        for contender, memory, latency, difference in zip(
            contenders, memories, latencies, differences)]


def _settings(setup: Setup) -> dict[str, Any]:
    """What was chosen, in words."""
    return {
        'date': time.strftime('%Y-%m-%d'),
        'timed': 'forward and backward in training mode, without an optimizer',
        'loss': 'sum of the means of the maps of the four stages',
        'input': f'noise of {"x".join(map(str, setup.size))} px',
        'batch': setup.batch_size,
        'device': setup.device,
        'dtype': setup.dtype + (
            ' (autocast)' if setup.dtype != 'fp32' else ''),
        'memory format': ('channels last' if setup.channels_last else
                          'contiguous'),
        'rounds': f'{setup.rounds} of a step of each network, in turns',
    }


LEGEND = (
    'Peak memory: weights, buffers, images, and the most that torch had '
    'allocated at once in a step: what is kept for the backward pass, '
    'temporary maps, gradients of the weights. Not in it: an optimizer, and '
    'what oneDNN or cuDNN allocate past torch; that is in the column system, '
    'the growth of the process or, on CUDA, of what the driver says is in '
    'use.',
    'Time: median of the steps. Spread: the middle 90 % of the times differ '
    f'by so much of the median; where it is marked{MARK} (above '
    f'{MAX_SPREAD:.0%}) something disturbed them.',
)


def cells(report: Report) -> list[list[str]]:
    """The table as text.

    Args:
        report (Report): Results.

    Returns:
        list[list[str]]: A header, and a row for each network.
    """
    rows = [['network', 'peak memory, MB', "of timm's", 'system, MB',
             'time, s', "of timm's", 'spread, %']]
    for result in report.results:
        system, spread = result.memory.system, result.latency.spread
        rows.append([
            result.contender.name,
            f'{result.memory.tensors / 1e6:.0f}',
            f'{result.memory_ratio:.2f}',
            NONE if system is None else f'{system / 1e6:.0f}',
            f'{result.latency.median:.3g}',
            f'{result.time_ratio:.2f}',
            NONE if spread is None else
            f'{spread * 100:.0f}' + MARK * (spread > MAX_SPREAD)])
    return rows


def markdown(report: Report) -> str:
    """The table with its conditions, for a page or a terminal.

    Args:
        report (Report): Results.

    Returns:
        str: Markdown.
    """
    difference = max(result.difference for result in report.results)
    outputs = (f'Outputs differ from those of timm by at most '
               f'{difference:.1g} of the largest.' if difference else
               'All outputs are equal to those of timm, bit by bit.')
    return '\n'.join([
        *markdown_table(cells(report)), '',
        outputs, '',
        *(f'- {key}: {value}' for key, value in report.conditions.items()),
        '', *LEGEND, ''])


def to_csv(report: Report) -> str:
    """One line for each network, its conditions in it.

    Args:
        report (Report): Results.

    Returns:
        str: CSV with a header; bytes and seconds, not rounded.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*Contender._fields, 'peak memory', 'system',
                     'median time', 'spread', 'memory ratio', 'time ratio',
                     'difference', *report.conditions])
    for r in report.results:
        writer.writerow([
            *r.contender, r.memory.tensors, r.memory.system,
            r.latency.median, r.latency.spread, r.memory_ratio, r.time_ratio,
            r.difference, *report.conditions.values()])
    return out.getvalue()


def save(report: Report, files: Sequence[str]) -> None:
    """Write results.

    Args:
        report (Report): Results.
        files (Sequence[str]): Names that end in one of
            :data:`~vovnet.benchmark.report.FORMATS`, which says what is
            written.
    """
    for file in map(Path, files):
        text = {'.json': lambda: json.dumps(report.to_dict(), indent=1),
                '.csv': lambda: to_csv(report),
                '.md': lambda: markdown(report)}[file.suffix]()
        file.write_text(text)
