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
    SeededItems,
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
def in_one_go(tmp_path_factory, write_config, run_tool):
    """Work dirs of whole trainings, by loop and number of workers."""
    done = {}

    def get(loop: str, workers: int, **runtime):
        key = loop, workers, *runtime.values()
        if key not in done:
            folder = tmp_path_factory.mktemp(f'{loop}{workers}')
            write_config(folder / 'c.py', RANDOM + LOOPS[loop]
                         + WORKERS * (workers > 0), **runtime)
            run = run_tool(folder, 'tools/train.py', 'c.py')
            assert run.returncode == 0, run.stderr
            done[key] = folder / 'work_dirs/c'
        return done[key]

    return get


def same(one: dict, other: dict) -> bool:
    """Weights, their moving average and the optimizer's state, to the bit."""
    pairs = [(one[k], other[k]) for k in ('state_dict', 'ema_state_dict')]
    pairs += zip(one['optimizer']['state'].values(),
                 other['optimizer']['state'].values())
    return all(set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
               for a, b in pairs)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('loop', ['epoch', 'iter'])
def test_resumed_equals_uninterrupted(loop, workers, in_one_go, run_tool,
                                      tmp_path):
    whole = in_one_go(loop, workers)
    run = run_tool(tmp_path, 'tools/train.py', whole.parents[1] / 'c.py',
                   '--resume', whole / MIDDLE[loop])
    assert run.returncode == 0, run.stderr
    middle = load_file(whole / MIDDLE[loop])
    end = load_file(whole / END[loop])
    assert not same(middle, end)
    assert same(load_file(tmp_path / 'work_dirs/c' / END[loop]), end)


def test_stopped_and_resumed_in_place(in_one_go, run_tool, tmp_path):
    whole = in_one_go('epoch', 0)
    config = whole.parents[1] / 'c.py'
    for stop in ('1', '2'):
        run = run_tool(tmp_path, 'tools/train.py', config, '--resume',
                       '--cfg-options', f'train_cfg.max_epochs={stop}')
        assert run.returncode == 0, run.stderr
    assert 'resumed epoch: 1' in run.stdout
    for name in MIDDLE['epoch'], END['epoch']:
        assert same(load_file(tmp_path / 'work_dirs/c' / name),
                    load_file(whole / name))


@pytest.mark.parametrize('loop', ['epoch', 'iter'])
def test_number_of_workers_does_not_matter(loop, in_one_go):
    assert same(load_file(in_one_go(loop, 0) / END[loop]),
                load_file(in_one_go(loop, 2) / END[loop]))


def test_without_the_hook_they_differ(in_one_go, run_tool, tmp_path):
    """Shows that the comparison can fail, and what MMEngine misses."""
    whole = in_one_go('epoch', 0, runtime='mmdet::_base_/default_runtime.py')
    run = run_tool(tmp_path, 'tools/train.py', whole.parents[1] / 'c.py',
                   '--resume', whole / MIDDLE['epoch'])
    assert run.returncode == 0, run.stderr
    assert not same(load_file(tmp_path / 'work_dirs/c' / END['epoch']),
                    load_file(whole / END['epoch']))


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
    items = SeededItems(Draws())
    steps = itertools.islice(batches(endless=True), 6)  # three epochs
    drawn = [item for step in steps for item in items(step)]
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
    SeededItems(Draws())(next(iter(batches())))
    assert expected == (
        random.random(), np.random.rand(), torch.rand(1).item())
