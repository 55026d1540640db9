"""Trained classifiers side by side: the VoVNet paper's CIFAR-10 study.

The paper (arXiv:1904.09730, section 3.2 and Figure 2) compares accuracy,
computation and memory access cost of three networks. Time and memory of a
training step are added, where dense connections cost most: what they
concatenate is kept for the backward pass.
"""
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..analysis.aggregation_weights import (
    BlockWeights,
    compute_aggregation_weights,
    draw_blocks,
    write_csv,
)
from ..analysis.complexity import CONVENTION, compute_config_complexity
from ..benchmark.environment import collect_environment
from ..benchmark.latency import DEVICE_TYPES, measure_latency
from ..benchmark.memory import measure_memory
from ..engine import run
from ..engine.build import build_network, get_input_shape, load_network
from ..engine.prepare import prepare_run, prepare_test
from ..utils.devices import find_device
from ..utils.errors import UserError
from ..utils.table import Column, Report, format_columns, format_page

LEGEND = (
    CONVENTION,
    "Multiply-adds and memory accesses are one image's, inference; "
    "accuracy is the config's test set's.",
    'A step: forward, backward and optimizer on noise, as the config trains; '
    'reading images is not in it. Peak memory: weights, their gradients and '
    "optimizer's state, and the most that torch had allocated at once beside "
    'them.')

# What the paper prints, by the ``arch`` of CIFARNet: accuracy on CIFAR-10 in
# percent (100 less the error where it prints that), and elements accessed.
PAPER = {
    'DenseNet-40': dict(accuracy=100 - 5.24, memory_access_cost=3.7e6),
    'OSA-12/20': dict(accuracy=93.6, memory_access_cost=None),
    'OSA-5/43': dict(accuracy=100 - 5.44, memory_access_cost=2.5e6),
}

COLUMNS = (
    Column('accuracy, %', 'accuracy', '.1f'),
    Column("paper's accuracy, CIFAR-10, %", 'paper.accuracy', '.2f'),
    Column('parameters, M', 'cost.params', '.3f', 1e6),
    Column('multiply-adds, M', 'cost.macs', '.1f', 1e6),
    Column('memory access cost, M', 'cost.memory_access_cost', '.2f', 1e6),
    Column("paper's memory access cost, M", 'paper.memory_access_cost', '.1f',
           1e6),
    Column('concat, MB', 'cost.cat_bytes', '.2f', 1e6),
    Column('step, ms', 'step.median', '.0f', 1e-3),
    Column('peak memory, MB', 'memory', '.0f', 1e6),
)


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier to be compared, with a file or URL of its weights."""
    name: str
    cfg: Config
    checkpoint: str


def compare_classifiers(
        networks: Sequence[TrainedClassifier], work_dir: str,
        device: str = 'cpu', batch_size: int | None = None,
        shape: Sequence[int] = (32, 32), repeats: int = 3,
        seconds: float = 2.0, progress: Callable[[str], None] = lambda _: None
        ) -> dict[str, Any]:
    """Test trained classifiers, count them, and measure their training steps.

    Args:
        networks: The classifiers.
        work_dir: For the logs of the tests.
        device: Where steps are measured, as torch names it.
        batch_size: Images of a step; by default that of each config's
            training.
        shape: Height and width of an image, px, for counts and steps.
        repeats: Turns of each classifier in which steps are timed.
        seconds: Length of a turn; three steps at least.
        progress: Called with a line about what comes next.

    Returns:
        A report for :func:`write_markdown` and JSON, with ``conditions`` and
        ``results``, in the order of ``networks``: top-1 ``accuracy`` in
        percent, ``cost`` of an image, times of the ``step`` in seconds, peak
        ``memory`` in bytes, and the paper's figures or None as ``paper``.

    Raises:
        UserError: If a test set is missing, a checkpoint is of another model,
            or a config has no accuracy or no training.
    """
    torch_device = find_device(device, DEVICE_TYPES)
    for network in networks:
        _check_config(network.cfg)
    accuracies, costs, memories, steps = [], [], [], []
    for network in networks:
        progress(f'{network.name}: testing')
        accuracies.append(_measure_accuracy(network, work_dir))
    sizes = [batch_size or network.cfg.train_dataloader.batch_size
             for network in networks]
    with _silence_logger():
        for network, size in zip(networks, sizes):
            progress(f'{network.name}: counting, and the memory of a step')
            costs.append(
                compute_config_complexity(network.cfg, list(shape)).total)
            memory, step = measure_memory(
                partial(build_training_step, network.cfg, size, torch_device,
                        shape), torch_device)
            memories.append(memory.tensors)
            steps.append(step)
        progress('the time of a step, in turns')
        times = measure_latency(
            steps, torch_device, repeats, seconds, max_warm_up=10.)
    return dict(
        conditions={
            'images of a step': ', '.join(map(str, sorted(set(sizes)))),
            'image, px': 'x'.join(map(str, shape)),
            'steps timed': f'{repeats} turns of {seconds:g} s each, '
                           'interleaved, after a warm-up',
            **collect_environment(torch_device)},
        legend=LEGEND,
        results=[
            dict(name=network.name, accuracy=accuracy, cost=cost._asdict(),
                 step=latency.to_dict(), memory=memory,
                 paper=PAPER.get(str(network.cfg.model.backbone.get('arch'))))
            for network, accuracy, cost, latency, memory in zip(
                networks, accuracies, costs, times, memories)])


@contextmanager
def _silence_logger() -> Iterator[None]:
    """Drop MMEngine's lines about each parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _check_config(cfg: Config) -> None:
    keys = 'train_dataloader', 'test_dataloader', 'optim_wrapper'
    if cfg.get('default_scope') != 'mmpretrain' or not all(
            map(cfg.get, keys)):
        raise UserError(
            f'config {cfg.filename}: is not of a classifier with training '
            'and test; give one such as configs/cifar/osa-5-43_shapes.py')


def _measure_accuracy(network: TrainedClassifier, work_dir: str) -> float:
    """Return the top-1 accuracy in percent, as ``tools/test.py`` does."""
    cfg = network.cfg.copy()
    prepare_run(cfg, os.path.join(work_dir, Path(cfg.filename).stem))
    prepare_test(cfg, network.checkpoint)
    metrics = run.test(cfg)
    if 'accuracy/top1' not in metrics:
        raise UserError(f'config {cfg.filename}: its test has no '
                        "accuracy/top1; set test_evaluator=dict("
                        "type='Accuracy', topk=(1, ))")
    return metrics['accuracy/top1']


def build_training_step(cfg: Config, batch_size: int, device: torch.device,
                        shape: Sequence[int]
                        ) -> tuple[nn.Module, list[Tensor],
                                   Callable[[], None]]:
    """Build a classifier and a function that trains it for a step on noise.

    One step has been done: the optimizer has its state.

    Returns:
        The network, the tensors that stay beside its own (images and the
        optimizer's state), and the function.
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


def list_rows(report: Report) -> list[list[str]]:
    """Return a column for each classifier and a row for each figure.

    Figures that no classifier has are left out.
    """
    results = report['results']
    rows = [['', *(result['name'] for result in results)]]
    for column, cells in zip(COLUMNS, format_columns(COLUMNS, results, '')):
        if any(cells):
            rows.append([column.title, *cells])
    return rows


def write_markdown(report: Report) -> str:
    """Return the table with its conditions, for a page."""
    return format_page(list_rows(report), report['conditions'], LEGEND)


def compute_figure2(networks: Sequence[TrainedClassifier]
                    ) -> list[list[BlockWeights]]:
    """Compute the paper's Figure 2, a row of blocks for each classifier.

    Raises:
        UserError: If a network has no OSA or dense block or another number of
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
    """Write ``figure2.png`` and its numbers, ``figure2.csv``."""
    blocks = [block for row in rows for block in row]
    picture, numbers = Path(folder, 'figure2.png'), Path(folder, 'figure2.csv')
    draw_blocks(blocks, columns=len(rows[0])).savefig(picture, dpi=120)
    write_csv(blocks, numbers)
    return [picture, numbers]
