"""Training in one go, and stopped and resumed, give the same bits."""
import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, Dataset, SequentialSampler

from vovnet.checkpoints import load_file
from vovnet.engine.hooks.resume_hook import (
    SeededBatches,
    load_samples,
    seed_all,
)

# Randomness everywhere: augmentation (RandomResize, RandomFlip) in the
# configuration, random slopes in the backbone, and a moving average beside.
RANDOM = '''
model['backbone'].update(act_cfg=dict(type='RReLU'))
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
'''
LOOPS = dict(
    epoch='''
train_cfg.update(max_epochs=2)
''',
    # An epoch has 6 iterations: the stop is in the second.
    iter='''
train_cfg = dict(type='IterBasedTrainLoop', max_iters=10, val_interval=7)
train_dataloader.update(sampler=dict(type='InfiniteSampler'))
default_hooks.update(checkpoint=dict(by_epoch=False, interval=7))
log_processor = dict(by_epoch=False)
''')
WORKERS = '''
train_dataloader.update(num_workers=2, persistent_workers=True)
'''
MIDDLE = dict(epoch='epoch_1.pth', iter='iter_7.pth')
END = dict(epoch='epoch_2.pth', iter='iter_10.pth')


@pytest.fixture(scope='module')
def train(write_config, run_tool):
    """Trains in a folder, and gives the work dir and what the tool prints."""

    def run(folder, loop: str, workers: int, *args, **runtime) -> tuple:
        write_config(folder / 'c.py', RANDOM + LOOPS[loop]
                     + WORKERS * (workers > 0), **runtime)
        run = run_tool(folder, 'tools/train.py', 'c.py', *args)
        assert run.returncode == 0, run.stderr
        return folder / 'work_dirs/c', run.stdout

    return run


@pytest.fixture(scope='module')
def whole(tmp_path_factory, train):
    """Work dirs of trainings in one go, with two workers, by loop."""
    return {loop: train(tmp_path_factory.mktemp(loop), loop, 2)[0]
            for loop in LOOPS}


def same(one: dict, other: dict) -> bool:
    """Weights, their moving average and the optimizer's state, to the bit."""
    pairs = [(one[k], other[k]) for k in ('state_dict', 'ema_state_dict')]
    pairs += zip(one['optimizer']['state'].values(),
                 other['optimizer']['state'].values())
    return all(set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
               for a, b in pairs)


@pytest.mark.parametrize('loop, workers', [
    ('epoch', 2), ('iter', 0), ('iter', 2)])
def test_resumed_equals_uninterrupted(loop, workers, whole, train, tmp_path):
    work_dir, _ = train(tmp_path, loop, workers, '--resume',
                        whole[loop] / MIDDLE[loop])
    middle = load_file(whole[loop] / MIDDLE[loop])
    end = load_file(whole[loop] / END[loop])
    assert not same(middle, end)
    assert same(load_file(work_dir / END[loop]), end)


def test_stopped_and_resumed_in_place(whole, train, tmp_path):
    """Without workers, which makes no difference before the stop either."""
    for stop in '12':
        work_dir, printed = train(
            tmp_path, 'epoch', 0, '--resume', '--cfg-options',
            f'train_cfg.max_epochs={stop}')
    assert 'resumed epoch: 1' in printed
    for name in MIDDLE['epoch'], END['epoch']:
        assert same(load_file(work_dir / name),
                    load_file(whole['epoch'] / name))


def test_number_of_workers_does_not_matter(whole, train, tmp_path):
    work_dir, _ = train(tmp_path, 'iter', 0)
    for name in MIDDLE['iter'], END['iter']:
        assert same(load_file(work_dir / name),
                    load_file(whole['iter'] / name))


def test_without_the_hook_they_differ(train, tmp_path):
    """Shows that the comparison can fail, and what MMEngine misses."""
    ends = []
    for name, args in (('whole', []), ('stopped', [
            '--resume', tmp_path / 'whole/work_dirs/c' / MIDDLE['epoch']])):
        (tmp_path / name).mkdir()
        work_dir, _ = train(tmp_path / name, 'epoch', 0, *args,
                            runtime='mmdet::_base_/default_runtime.py')
        ends.append(load_file(work_dir / END['epoch']))
    assert not same(*ends)


class Draws(Dataset):
    """Shows the random numbers that a sample gets."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple:
        return (index, random.random(), np.random.rand(),
                torch.rand(1).item())


def batches(**options) -> SeededBatches:
    data = Draws()
    return SeededBatches(
        BatchSampler(SequentialSampler(data), 2, False), (5, 0), **options)


def test_each_sample_has_numbers_of_its_own():
    steps = itertools.islice(batches(endless=True), 6)  # three epochs
    drawn = [item for step in steps for item in load_samples(Draws(), step)]
    assert [item[0] for item in drawn] == [0, 1, 2, 3] * 3
    for numbers in list(zip(*drawn))[1:]:
        assert len(set(numbers)) == 12


def test_skipping_leaves_out_the_beginning():
    whole = list(itertools.islice(batches(endless=True), 9))
    assert list(itertools.islice(
        batches(endless=True, skip=5), 4)) == whole[5:]
    assert len(list(batches())) == len(batches()) == 2


def test_samples_leave_the_generators_alone():
    """Whether data is loaded here or in a worker must not matter."""
    seed_all((1, 2))
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    seed_all((1, 2))
    load_samples(Draws(), next(iter(batches())))
    assert expected == (
        random.random(), np.random.rand(), torch.rand(1).item())
