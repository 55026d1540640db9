"""Training that goes on after a stop exactly as if it had not stopped.

Own work on MMEngine's interfaces (read in mmengine 0.10.7:
``runner/loops.py``, ``runner/runner.py``, ``dataset/utils.py``).

What MMEngine resumes: weights, optimizer, schedules, EMA, epoch and
iteration. What it misses is the randomness:

- no state of a random generator is saved, so that augmentation, dropout and
  the sampling of proposals go on with other numbers;
- with ``persistent_workers`` a worker's numbers depend on the epochs it has
  seen; without, each epoch repeats those of the first;
- samplers are seeded before the seed in the checkpoint is known;
- an iteration-based loop loads and discards all the data up to where it
  stopped.

Saving the states cannot mend this, because the states of workers are out of
reach and run ahead. So nothing is saved here: each iteration and each sample
draws from generators seeded by where it stands, as a counter-based generator
(Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) would.
The result does not depend on the number of workers either, and checkpoints
stay those of plain MMEngine.
"""
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader

Seed = tuple[int, ...]


def seed_all(seed: Seed) -> None:
    """Seed Python's, numpy's and torch's generators, on all devices.

    Args:
        seed: Non-negative integers that say where the numbers are used.
    """
    words = np.random.SeedSequence(seed).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))


@contextmanager
def _seeded(seed: Seed) -> Iterator[None]:
    """Seed the CPU's generators, and leave them as they were found."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence(seed).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SeededBatches:
    """A batch sampler that gives each index the seed of its sample.

    Args:
        batches: Yields lists of indices; its ``sampler`` may have
            ``set_epoch``.
        seed: What the samples of this process have in common.
        endless: Begin again, with the next epoch, when ``batches`` ends.
        skip: Batches to leave out at the beginning.
    """

    def __init__(self, batches: BatchSampler, seed: Seed,
                 endless: bool = False, skip: int = 0) -> None:
        self.batches = batches
        self.seed = seed
        self.endless = endless
        self.skip = skip
        self.epoch = 0

    @property
    def sampler(self) -> Any:
        """The sampler below, where MMEngine's hooks look for it."""
        return self.batches.sampler

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, Seed]]]:
        return itertools.islice(self._all(), self.skip, None)

    def _all(self) -> Iterator[list[tuple[int, Seed]]]:
        while True:
            for step, batch in enumerate(self.batches):
                yield [(index, (*self.seed, self.epoch, step, place))
                       for place, index in enumerate(batch)]
            if not self.endless:
                return
            self.epoch += 1
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(self.epoch)


class SeededItems:
    """Fetches a batch, each sample with the generators of its seed.

    Args:
        dataset: A map-style data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, items: list[tuple[int, Seed]]) -> list:
        """Get the samples of one batch of :class:`SeededBatches`."""
        return [self._get(index, seed) for index, seed in items]

    def _get(self, index: int, seed: Seed) -> Any:
        with _seeded(seed):
            return self.dataset[index]


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Make training a function of the seed, not of stops and workers.

    N iterations, a stop, and N more with ``--resume`` give the weights that
    2N iterations give: bit for bit where the kernels are deterministic (on
    the CPU they are), at the end of an epoch for ``EpochBasedTrainLoop`` and
    after any checkpoint for ``IterBasedTrainLoop``. The seed is that of
    ``randomness``; if none is set, MMEngine draws one, keeps it in the
    checkpoint, and it is used again.

    The samplers are built again from ``train_dataloader``, as ``Runner``
    does. Loops without one data loader are left alone.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Give the training loop a data loader with seeded samples."""
        loop, rank = runner.train_loop, get_rank()
        randomness = runner.cfg.get('randomness') or {}
        # MMEngine adds the rank to the seed here; samplers need one for all.
        common = runner.seed - (
            rank if randomness.get('diff_rank_seed') else 0)
        self.seed = common, rank
        self.batches = None
        cfg = runner.cfg.get('train_dataloader')
        old = getattr(loop, 'dataloader', None)
        if not (isinstance(cfg, dict) and isinstance(old, DataLoader)):
            return

        by_iter = hasattr(loop, 'dataloader_iterator')
        self.batches = SeededBatches(
            _build_batches(cfg, old.dataset, common), (*self.seed, 0),
            endless=by_iter, skip=loop.iter if by_iter else 0)
        # torch fetches a whole batch by `__getitems__`, where there is one.
        old.dataset.__getitems__ = SeededItems(old.dataset)
        loop.dataloader = DataLoader(
            old.dataset, batch_sampler=self.batches,
            **{name: getattr(old, name) for name in (
                'num_workers', 'collate_fn', 'pin_memory', 'timeout',
                'worker_init_fn', 'multiprocessing_context',
                'prefetch_factor', 'persistent_workers')})
        if by_iter:
            loop.dataloader_iterator = _Batches(loop.iter, loop.dataloader)

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the samples which epoch they are of."""
        if self.batches is not None and not self.batches.endless:
            self.batches.epoch = runner.epoch

    def before_train_iter(self, runner: Runner, batch_idx: int,
                          data_batch: Any = None) -> None:
        """Seed what the model draws in this iteration."""
        seed_all((*self.seed, 1, runner.iter))


class _Batches:
    """What an iteration-based loop takes its batches from.

    The loop first asks for those it has done before the stop, which the
    loader was told to leave out: they are None and cost nothing.
    """

    def __init__(self, done: int, loader: DataLoader) -> None:
        self.done = done
        self.batches = iter(loader)

    def __next__(self) -> Any:
        if self.done:
            self.done -= 1
            return None
        return next(self.batches)

    def skip_iter(self, num: int) -> None:
        """How onedl-mmengine says that it has done ``num`` batches."""
        self.done -= num


def _build_batches(cfg: dict, dataset: Any, seed: int) -> BatchSampler:
    """Sampler and batch sampler, as ``Runner.build_dataloader`` has them."""
    sampler = DATA_SAMPLERS.build(
        cfg['sampler'], default_args=dict(dataset=dataset, seed=seed))
    if cfg.get('batch_sampler') is None:
        return BatchSampler(
            sampler, cfg['batch_size'], cfg.get('drop_last', False))
    return DATA_SAMPLERS.build(
        cfg['batch_sampler'],
        default_args=dict(sampler=sampler, batch_size=cfg['batch_size']))
