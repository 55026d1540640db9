"""Trained classifiers side by side: the VoVNet paper's CIFAR-10 study.

Sources: Lee et al., arXiv:1904.09730, section 3.2 and Figure 2. The paper
sets accuracy, computation and memory access cost of three networks beside
each other; here time and memory of a training step stand with them, where
dense connections cost most: what is concatenated is kept for the backward
pass. How they are measured is own work, with the parts of this package.
"""
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from rich.table import Table
from torch import Tensor, nn

from ..analysis.aggregation_weights import (
    BlockWeights,
    compute_aggregation_weights,
    draw_blocks,
    write_csv,
)
from ..analysis.complexity import CONVENTION, Cost, compute_config_complexity
from ..benchmark.environment import collect_environment
from ..benchmark.latency import DEVICE_TYPES, Latency, measure_latency
from ..benchmark.memory import measure_memory
from ..benchmark.report import markdown_table
from ..engine import run
from ..engine.build import build_network, get_input_shape, load_network
from ..engine.prepare import prepare_run, prepare_test
from ..utils.devices import find_device
from ..utils.errors import UserError

LEGEND = (
    CONVENTION,
    "Multiply-adds and memory accesses are one image's, inference; "
    "accuracy is the config's test set's.",
    'A step: forward, backward and optimizer on noise, as the config trains; '
    'reading images is not in it. Peak memory: weights, their gradients and '
    "optimizer's state, and the most that torch had allocated at once beside "
    'them.')


class Paper(NamedTuple):
    """What the paper's section 3.2 prints of a network.

    Attributes:
        accuracy: On CIFAR-10, %; 100 less the error where it prints that.
        memory_access_cost: Elements; None where it prints none.
    """
    accuracy: float
    memory_access_cost: float | None = None


PAPER = {
    'DenseNet-40': Paper(100 - 5.24, 3.7e6),
    'OSA-12/20': Paper(93.6),
    'OSA-5/43': Paper(100 - 5.44, 2.5e6),
}
"""By the ``arch`` of :class:`vovnet.models.CIFARNet`."""


@dataclass(frozen=True)
class Trained:
    """A classifier that takes part.

    Attributes:
        name: For the table.
        cfg: Its config.
        checkpoint: A file or a URL: the weights of the whole classifier.
    """
    name: str
    cfg: Config
    checkpoint: str


@dataclass(frozen=True)
class Result:
    """What is found of a classifier.

    Attributes:
        name: As in :class:`Trained`.
        accuracy: Top-1, %.
        cost: Of one image.
        step: Seconds of its training steps.
        memory: Peak of a training step, bytes.
        paper: The paper's figures, if it has this network.
    """
    name: str
    accuracy: float
    cost: Cost
    step: Latency
    memory: int
    paper: Paper | None


@dataclass(frozen=True)
class Study:
    """What :func:`study` finds.

    Attributes:
        results: Of each classifier.
        conditions: On what it was measured.
    """
    results: list[Result]
    conditions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return dict(
            conditions=self.conditions, legend=LEGEND,
            results=[dict(
                name=r.name, accuracy=r.accuracy, cost=r.cost._asdict(),
                step=r.step.to_dict(), memory=r.memory,
                paper=r.paper and r.paper._asdict()) for r in self.results])


def study(networks: Sequence[Trained], work_dir: str, device: str = 'cpu',
          batch_size: int | None = None, shape: Sequence[int] = (32, 32),
          repeats: int = 3, seconds: float = 2.0,
          progress: Callable[[str], None] = lambda text: None) -> Study:
    """Test trained classifiers, count them, and measure their training steps.

    Args:
        networks (Sequence[Trained]): The classifiers.
        work_dir (str): For the logs of the tests.
        device (str): Where steps are measured, as torch names it.
        batch_size (int, optional): Images of a step; by default that of each
            config's training.
        shape (Sequence[int]): Height and width of an image, px, for counts
            and steps.
        repeats (int): Turns of each classifier in which steps are timed.
        seconds (float): Length of a turn; three steps at least.
        progress (Callable): Called with a line about what comes next.

    Returns:
        Study: In the order of ``networks``.

    Raises:
        UserError: If a test set is not there, a checkpoint is of another
            model, or a config has no accuracy or no training.
    """
    where = find_device(device, DEVICE_TYPES)
    for network in networks:
        _check(network.cfg)
    accuracies, costs, memories, steps = [], [], [], []
    for network in networks:
        progress(f'{network.name}: testing')
        accuracies.append(_accuracy(network, work_dir))
    sizes = [batch_size or n.cfg.train_dataloader.batch_size
             for n in networks]
    with _quiet():
        for network, size in zip(networks, sizes):
            progress(f'{network.name}: counting, and the memory of a step')
            costs.append(compute_config_complexity(network.cfg, list(shape)).total)
            memory, step = measure_memory(
                partial(training_step, network.cfg, size, where, shape),
                where)
            memories.append(memory.tensors)
            steps.append(step)
        progress('the time of a step, in turns')
        times = measure_latency(
            steps, where, repeats, seconds, max_warm_up=10.)
    return Study(
        [Result(n.name, *found, PAPER.get(
            str(n.cfg.model.backbone.get('arch'))))
         for n, *found in zip(networks, accuracies, costs, times, memories)],
        {'images of a step': ', '.join(map(str, sorted(set(sizes)))),
         'image, px': 'x'.join(map(str, shape)),
         'steps timed': f'{repeats} turns of {seconds:g} s each, interleaved, '
                        'after a warm-up',
         **collect_environment(where)})


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the terminal what MMEngine says of each parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check(cfg: Config) -> None:
    """See that it is a classifier's config, for training too."""
    if cfg.get('default_scope') != 'mmpretrain' or not all(
            cfg.get(key) for key in ('train_dataloader', 'test_dataloader',
                                     'optim_wrapper')):
        raise UserError(
            f'config {cfg.filename}: is not of a classifier with training '
            'and test; give one such as configs/cifar/osa-5-43_shapes.py')


def _accuracy(network: Trained, work_dir: str) -> float:
    """Top-1 accuracy on the test set, %, as ``tools/test.py`` tells it."""
    cfg = network.cfg.copy()
    prepare_run(cfg, os.path.join(work_dir, Path(cfg.filename).stem))
    prepare_test(cfg, network.checkpoint)
    metrics = run.test(cfg)
    if 'accuracy/top1' not in metrics:
        raise UserError(f'config {cfg.filename}: its test tells no '
                        "accuracy/top1; set test_evaluator=dict("
                        "type='Accuracy', topk=(1, ))")
    return metrics['accuracy/top1']


def training_step(cfg: Config, batch_size: int, device: torch.device,
                  shape: Sequence[int]
                  ) -> tuple[nn.Module, list[Tensor], Callable[[], None]]:
    """Build a classifier and what does one training step of it, on noise.

    One step has been done: the optimizer has its state.

    Args:
        cfg (Config): Of a classifier.
        batch_size (int): Images of a step.
        device (torch.device): Where.
        shape (Sequence[int]): Height and width of an image, px.

    Returns:
        tuple: The network; the tensors that stay beside its own (images and
        the optimizer's state); the step, without arguments.
    """
    network = build_network(cfg).to(device).train()
    if any(hook['type'].endswith('ChannelsLastHook')
           for hook in cfg.get('custom_hooks') or []):
        network.to(memory_format=torch.channels_last)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        optimizer = build_optim_wrapper(network, cfg.optim_wrapper.copy())
    _, *size = get_input_shape(cfg, list(shape))
    images = torch.randint(
        256, (batch_size, *size), dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0)).to(device)
    samples = [DataSample().set_gt_label(i % cfg.model.head.num_classes)
               for i in range(batch_size)]

    def step() -> None:
        network.train_step(dict(inputs=images, data_samples=samples),
                           optimizer)

    step()
    state = [value for values in optimizer.optimizer.state.values()
             for value in values.values() if isinstance(value, Tensor)]
    return network, [images, *state], step


_COLUMNS = (
    ('accuracy, %', lambda r: r.accuracy, '.1f'),
    ("paper's accuracy, CIFAR-10, %",
     lambda r: r.paper and r.paper.accuracy, '.2f'),
    ('parameters, M', lambda r: r.cost.params / 1e6, '.3f'),
    ('multiply-adds, M', lambda r: r.cost.macs / 1e6, '.1f'),
    ('memory access cost, M', lambda r: r.cost.memory_access_cost / 1e6,
     '.2f'),
    ("paper's memory access cost, M",
     lambda r: r.paper and r.paper.memory_access_cost
     and r.paper.memory_access_cost / 1e6, '.1f'),
    ('concat, MB', lambda r: r.cost.cat_bytes / 1e6, '.2f'),
    ('step, ms', lambda r: r.step.median * 1e3, '.0f'),
    ('peak memory, MB', lambda r: r.memory / 1e6, '.0f'),
)


def cells(found: Study) -> list[list[str]]:
    """The table as text.

    Args:
        found (Study): Results.

    Returns:
        list[list[str]]: A header, and a row for each figure with a column
        for each classifier; rows that none has are left out.
    """
    rows = [['', *(result.name for result in found.results)]]
    for title, value, form in _COLUMNS:
        values = [value(result) for result in found.results]
        if any(v is not None for v in values):
            rows.append([title, *('' if v is None else f'{v:{form}}'
                                  for v in values)])
    return rows


def terminal_table(found: Study) -> Table:
    """The table for a terminal."""
    header, *rows = cells(found)
    table = Table()
    for i, title in enumerate(header):
        table.add_column(title, justify='right' if i else 'left')
    for row in rows:
        table.add_row(*row)
    return table


def markdown(found: Study) -> str:
    """The table with its conditions, for a page."""
    lines = markdown_table(cells(found))
    conditions = [f'- {key}: {value}'
                  for key, value in found.conditions.items()]
    return '\n'.join([*lines, '', *conditions, '', *LEGEND, ''])


def figure2_rows(networks: Sequence[Trained]) -> list[list[BlockWeights]]:
    """Read the rows of the paper's Figure 2 from classifiers' weights.

    Args:
        networks (Sequence[Trained]): With as many blocks each.

    Returns:
        list[list[BlockWeights]]: For each network its blocks, under its name.

    Raises:
        UserError: If a network has no block to be drawn or another number of
            them than the first, or its checkpoint is of another model.
    """
    rows = [[block._replace(name=f'{n.name}, {block.name.split(".")[-1]}')
             for block in compute_aggregation_weights(
                 load_network(n.cfg, n.checkpoint))] for n in networks]
    for network, row in zip(networks, rows):
        if len(row) != len(rows[0]):
            raise UserError(
                f'{network.name} has {len(row)} blocks, {networks[0].name} '
                f'has {len(rows[0])}: Figure 2 cannot set them side by side; '
                'compare networks with as many blocks each')
    return rows


def draw_figure2(rows: Sequence[Sequence[BlockWeights]],
                 folder: str) -> list[Path]:
    """Draw the paper's Figure 2.

    Args:
        rows (Sequence[Sequence[BlockWeights]]): From :func:`figure2_rows`.
        folder (str): Where ``figure2.png`` and ``figure2.csv``, the numbers,
            are written.

    Returns:
        list[Path]: The two files.
    """
    blocks = [block for row in rows for block in row]
    picture, numbers = Path(folder, 'figure2.png'), Path(folder, 'figure2.csv')
    draw_blocks(blocks, columns=len(rows[0])).savefig(picture, dpi=120)
    write_csv(blocks, numbers)
    return [picture, numbers]
