"""vovnet.benchmark.training against sizes counted by hand."""
import builtins
import csv
import io
import json
from dataclasses import replace

import pytest
import timm
import torch

from vovnet.benchmark.latency import Latency
from vovnet.benchmark.memory import measure_allocation_peak
from vovnet.benchmark.training import (
    CASES,
    TIMM,
    Setup,
    Step,
    TrainingCase,
    count_steps,
    list_rows,
    measure_training,
    save,
    write_markdown,
)
from vovnet.utils.errors import UserError

ARCH = 'V2-19-slim-dw'  # the smallest
SMALL = Setup((96, 64), rounds=3)


@pytest.fixture(scope='module')
def report():
    steps = []
    saved = []
    found = measure_training([ARCH], SMALL, steps.append, saved.append)
    assert saved == [found]  # at once, after the arch
    assert len(steps) == count_steps([ARCH], SMALL)
    return found


def test_all_take_turns(report):
    assert [(r['library'], r['with_cp'])
            for r in report['results']] == list(CASES)
    for result in report['results']:
        assert list(map(len, result['latency']['repeats'])) == [
            1] * SMALL.rounds
        assert result['difference'] < 1e-6
    told = report['conditions']
    assert told['batch'] == 2 and '96x64' in told['input']
    assert told['threads'] == torch.get_num_threads()
    assert told['timm'] == timm.__version__


def test_ratios_are_to_timms(report):
    first = report['results'][0]
    for r in report['results']:
        assert r['memory_ratio'] == (
            r['memory']['tensors'] / first['memory']['tensors'])
        assert r['time_ratio'] == (
            r['latency']['median'] / first['latency']['median'])
    assert first['memory_ratio'] == first['time_ratio'] == 1


def test_peak_is_at_least_what_must_be_there(report):
    """Weights, their gradients, images and the outputs."""
    network = timm.create_model(TIMM[ARCH], num_classes=0)
    weights = sum(p.numel() for p in network.parameters())
    outputs = sum(
        2 * channels * (96 // stride) * (64 // stride)
        for channels, stride in zip((112, 256, 384, 512), (4, 8, 16, 32)))
    least = 4 * (2 * weights + 2 * 3 * 96 * 64 + outputs)
    for result in report['results']:
        assert least < result['memory']['tensors'] < 4 * least


def test_modes_need_less_than_what_keeps_all():
    """Where maps weigh more than weights; how much less is on the page."""
    peaks = []
    for which in CASES[1:]:
        step = Step(TrainingCase(ARCH, *which).build(), Setup((192, )))
        step()
        peaks.append(measure_allocation_peak(step))
    checkpoints, plain, pointwise, block = peaks
    assert block < pointwise < plain and block < checkpoints


@pytest.mark.parametrize('arch', TIMM)
def test_networks_are_timms(arch):
    """Same weights, same outputs; in bf16 and channels last for some."""
    setup = Setup((64, ), channels_last=arch == ARCH,
                  dtype='bf16' if arch == 'V2-19-slim' else 'fp32')
    theirs = TrainingCase(arch, 'timm', False)
    weights = theirs.build().state_dict()
    steps = [Step(case.build(weights), setup)
             for case in (theirs, TrainingCase(arch, 'vovnet', False))]
    assert all(step.network.training for step in steps)
    assert torch.equal(*(step.images for step in steps))
    for a, b in zip(*(step.forward() for step in steps), strict=True):
        assert a.dtype == b.dtype == (
            torch.bfloat16 if setup.dtype == 'bf16' else torch.float32)
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()
        assert a.is_contiguous(memory_format=torch.channels_last) == \
            setup.channels_last


def test_a_step_leaves_nothing():
    step = Step(TrainingCase(ARCH, 'vovnet', 'block').build(), SMALL)
    seen = []
    step.network.stem[0].conv.weight.register_hook(seen.append)
    step()
    step()
    assert len(seen) == 2 and all(grad.any() for grad in seen)
    assert all(p.grad is None for p in step.network.parameters())


def test_files(report, tmp_path):
    files = [tmp_path / f'a{suffix}' for suffix in ('.json', '.csv', '.md')]
    save(report, files)
    found, rows, page = (file.read_text() for file in files)
    found = json.loads(found)
    assert [r['name'] for r in found['results']] == [
        TrainingCase(ARCH, *which).name for which in CASES]
    assert found['conditions']['batch'] == 2
    rows = list(csv.DictReader(io.StringIO(rows)))
    for row, saved, result in zip(rows, found['results'], report['results'],
                                  strict=True):
        assert int(row['peak memory']) == saved['memory']['tensors'] == \
            result['memory']['tensors']
        assert float(row['median time']) == saved['latency']['median']
        assert row['threads'] == str(report['conditions']['threads'])
    for row in list_rows(report):
        assert f'| {" | ".join(row)} |' in page
    assert '- batch: 2' in page


@pytest.mark.parametrize(('last', 'is_marked'), [(2., True), (1.01, False)])
def test_disturbed_times_are_marked(report, last, is_marked):
    latency = Latency([[1.], [1.], [last]], [[0]] * 3).to_dict()
    again = dict(results=[dict(report['results'][0], latency=latency)])
    assert list_rows(again)[1][-1].endswith(' !') == is_marked


def test_differences_are_told(report):
    result = dict(report['results'][0], difference=0.25)
    page = write_markdown(dict(report, results=[result]))
    assert 'differ from those of timm by at most 0.2' in page


@pytest.mark.parametrize(('arch', 'setup', 'said'), [
    ('V2-40', SMALL, 'arch V2-40: timm has none like it; choose from V1-39'),
    ('V1-27-slim', SMALL, 'arch V1-27-slim: timm has none'),
    (ARCH, replace(SMALL, shape=(1, 2, 3)), '--shape 1 2 3'),
    (ARCH, replace(SMALL, shape=(63, )), '--shape 63: .* at least 64'),
    (ARCH, replace(SMALL, batch_size=0), '--batch-size 0: give at least 1'),
    (ARCH, replace(SMALL, rounds=0), '--rounds 0: give at least 1'),
    (ARCH, replace(SMALL, device='cuda:9'), '--device cuda:9'),
])
def test_mistakes(arch, setup, said):
    with pytest.raises(UserError, match=f'^{said}'):
        measure_training([arch], setup)


def test_smallest_that_trains():
    """A single image, of which four pixels are left at stride 32."""
    setup = Setup((64, ), batch_size=1)
    setup.check()
    Step(TrainingCase(ARCH, 'vovnet', False).build(), setup)()


def test_without_timm(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == 'timm':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(UserError, match='pip install timm'):
        measure_training([ARCH], SMALL)
