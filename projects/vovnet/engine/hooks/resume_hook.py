"""Hook that makes resumed training equal to uninterrupted training.

mmengine 0.10.7 resumes weights, optimizer, schedules, EMA, epoch and
iteration, but no randomness:

- the states of random generators are not saved, so augmentation, dropout and
  the sampling of proposals continue with other numbers;
- with ``persistent_workers`` a worker's numbers depend on the epochs it has
  seen; without, each epoch repeats those of the first;
- samplers are seeded before the seed in the checkpoint is known;
- an iteration-based loop loads and discards all data up to where it stopped.

Generator states of workers are out of reach and run ahead. So nothing is
saved: each iteration and each sample draws from generators seeded by its
position, as in a counter-based generator (Salmon et al., "Parallel Random
Numbers: As Easy as 1, 2, 3", SC 2011).
"""
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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
    """Seed Python's, NumPy's and torch's generators, on all devices."""
    words = np.random.SeedSequence(seed).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))


@contextmanager
def _use_seed(seed: Seed) -> Iterator[None]:
    """Seed the CPU's generators, and restore them at the end."""
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
    """Batch sampler that yields each index with the seed of its sample.

    Args:
        batches: Yields lists of indices; its ``sampler`` may have
            ``set_epoch``.
        seed: The beginning of this process's seeds.
        endless: Start the next epoch when ``batches`` ends.
        skip: Number of batches to leave out at the beginning.
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
        """The sampler, where MMEngine's hooks look for it."""
        return self.batches.sampler

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, Seed]]]:
        return itertools.islice(self._iter_all(), self.skip, None)

    def _iter_all(self) -> Iterator[list[tuple[int, Seed]]]:
        while True:
            for step, batch in enumerate(self.batches):
                yield [(index, (*self.seed, self.epoch, step, position))
                       for position, index in enumerate(batch)]
            if not self.endless:
                return
            self.epoch += 1
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(self.epoch)


def load_samples(dataset: Any, items: list[tuple[int, Seed]]) -> list:
    """Load one batch of :class:`SeededBatches`, each sample from its seed."""
    samples = []
    for index, seed in items:
        with _use_seed(seed):
            samples.append(dataset[index])
    return samples


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Hook that makes training independent of stops and of workers.

    N iterations, a stop, and N more with ``--resume`` give the weights of 2N
    iterations: bit for bit where the kernels are deterministic (on the CPU
    they are), at the end of an epoch for ``EpochBasedTrainLoop`` and after
    any checkpoint for ``IterBasedTrainLoop``. The seed is ``randomness``'s;
    if none is set, the one that MMEngine draws and keeps in the checkpoint.

    The samplers are built again from ``train_dataloader``. Loops without one
    data loader are left alone.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Replace the loop's data loader by one with seeded samples."""
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
        old.dataset.__getitems__ = partial(load_samples, old.dataset)
        loop.dataloader = DataLoader(
            old.dataset, batch_sampler=self.batches,
            **{name: getattr(old, name) for name in (
                'num_workers', 'collate_fn', 'pin_memory', 'timeout',
                'worker_init_fn', 'multiprocessing_context',
                'prefetch_factor', 'persistent_workers')})
        if by_iter:
            loop.dataloader_iterator = _Batches(loop.iter, loop.dataloader)

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the epoch for the samples' seeds."""
        if self.batches is not None and not self.batches.endless:
            self.batches.epoch = runner.epoch

    def before_train_iter(self, runner: Runner, batch_idx: int,
                          data_batch: Any = None) -> None:
        """Seed the model's random numbers for this iteration."""
        seed_all((*self.seed, 1, runner.iter))


class _Batches:
    """Iterator for an iteration-based loop that resumes.

    The loop first asks for the batches before the stop, which the loader
    leaves out: they are None and cost nothing.
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
        """Skip batches at once, as onedl-mmengine does."""
        self.done -= num


def _build_batches(cfg: dict, dataset: Any, seed: int) -> BatchSampler:
    """Build a batch sampler as ``Runner.build_dataloader`` does."""
    sampler = DATA_SAMPLERS.build(
        cfg['sampler'], default_args=dict(dataset=dataset, seed=seed))
    if cfg.get('batch_sampler') is None:
        return BatchSampler(
            sampler, cfg['batch_size'], cfg.get('drop_last', False))
    return DATA_SAMPLERS.build(
        cfg['batch_sampler'],
        default_args=dict(sampler=sampler, batch_size=cfg['batch_size']))
