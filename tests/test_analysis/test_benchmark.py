"""vovnet.analysis.benchmark on the CPU for real, and with a scripted meter."""
import copy
import math
import sys

import cv2
import numpy as np
import pytest
import torch

from vovnet.analysis import config_complexity
from vovnet.analysis.benchmark import (
    Entry,
    Plan,
    benchmark,
    find_device,
    num_steps,
)
from vovnet.analysis.energy import Reading
from vovnet.analysis.subject import Input, Subject, subject_cost
from vovnet.errors import UserError

module = sys.modules['vovnet.analysis.benchmark']  # not the function
QUICK = Plan(repeats=2, seconds=0.02, max_warm_up=0.1, meter='none')


def test_two_networks_side_by_side(tiny):
    wide = copy.deepcopy(tiny)
    wide.model.backbone.arch.aggregated_channels = (32, 16, 16)
    steps = []
    found = benchmark([Entry('one', tiny), Entry('two', wide, accuracy=33.)],
                      Input(shape=[96, 64], batch_size=2), QUICK,
                      lambda text, more: steps.append((text, more)))
    assert len(steps) == num_steps(QUICK, 2) and not any(m for _, m in steps)
    for result, cfg in zip(found.results, (tiny, wide)):
        assert result.cost == config_complexity(cfg, [96, 64]).total
        assert result.shapes == {(2, 3, 96, 64): 1}
        seconds = np.median(sum(result.latency.repeats, []))
        assert len(result.latency.repeats) == 2
        assert result.fps == pytest.approx(2 / seconds)
        assert result.efficiency == pytest.approx(
            result.cost.macs * 2 / seconds)
        assert 0 < result.share < 1
        assert result.energy is None and result.detections == 7
        # fp32 weights and input at least, and not a hundred times as much.
        least = 4 * (result.cost.params + 2 * 3 * 96 * 64)
        assert least < result.memory.tensors < 100 * least
    assert found.no_energy
    assert found.results[1].cost.params > found.results[0].cost.params
    assert found.results[1].entry.accuracy == 33
    told = found.conditions
    assert told['batch'] == 2 and '96x64' in told['input']
    assert told['torch'] == torch.__version__
    assert told['threads'] == torch.get_num_threads()
    assert 'with decoding and NMS' in told['timed']


@pytest.mark.parametrize('dtype', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('part', ['backbone', 'detector'])
def test_precisions(tiny, part, dtype):
    subject = Subject(tiny, Input(part=part, dtype=dtype, nms=False,
                                  channels_last=True))
    kind = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
    out = subject()
    maps = out if part == 'backbone' else out[0]
    assert {m.dtype for m in maps} == {kind[dtype]}
    assert subject.tensors[0].is_contiguous(memory_format=torch.channels_last)
    weight = next(p for p in subject.network.parameters() if p.dim() == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.dtype == (kind[dtype] if part == 'backbone' else
                            torch.float32)
    assert not maps[0].requires_grad


def test_random_networks_keep_their_activations(tiny):
    """BN's statistics are those of noise: the maps have about size one."""
    subject = Subject(tiny, Input(part='backbone'))
    for level in subject():
        assert 0.1 < level.std() < 10


def test_nms_in_and_out(tiny):
    with_nms, without = (Subject(tiny, Input(nms=nms)) for nms in (True,
                                                                   False))
    [sample] = with_nms()
    assert len(sample.pred_instances) == with_nms.detections() == 7
    cls_scores, *_ = without()
    assert [tuple(s.shape) for s in cls_scores] == [
        (1, 5, 8, 8), (1, 5, 4, 4)]
    assert without.detections() is None


@pytest.fixture
def pictures(tmp_path):
    for i, (height, width) in enumerate([(64, 64), (32, 64), (64, 64)]):
        image = np.random.default_rng(i).integers(
            0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f'{i}.png'), image)
    return tmp_path


def test_real_images(tiny, pictures):
    subject = Subject(tiny, Input(data=str(pictures)))
    assert subject.shapes == {(1, 3, 64, 64): 2, (1, 3, 32, 64): 1}
    pixels = cv2.imread(str(pictures / '1.png')).transpose(2, 0, 1)
    assert torch.equal(subject.tensors[1][0],
                       torch.from_numpy(pixels).float())
    cost, _ = subject_cost(tiny, subject)
    whole, half = (config_complexity(tiny, shape).total
                   for shape in ([64, 64], [32, 64]))
    assert cost.macs == pytest.approx((2 * whole.macs + half.macs) / 3)
    assert cost.params == whole.params
    seen = []
    for _ in range(4):
        subject()
        seen.append(subject.batch)
    assert sorted(set(seen)) == [0, 1, 2] and seen[0] == seen[3]


def test_trained_weights(tiny, tmp_path):
    first = Subject(tiny, Input(nms=False))
    file = tmp_path / 'w.pth'
    torch.save(dict(state_dict=first.network.state_dict()), file)
    for part in 'detector', 'backbone':
        again = Subject(tiny, Input(part=part, nms=False), str(file))
        whole = first() if part == 'detector' else [first.network.backbone(
            first.tensors[0])]
        out = again() if part == 'detector' else [again()]
        for a, b in zip(whole, out):
            assert all(map(torch.equal, a, b))


class ScriptedMeter:
    """Idle 5 W; at work 8 W for one network and 20 W for the other."""
    method, scope, shortest = 'script', 'nothing', 0.

    def __init__(self):
        self.windows = []

    def begin(self):
        pass

    def end(self):
        watts = 5 if not self.windows else (20, 8)[len(self.windows) % 2]
        self.windows.append(watts)
        return Reading(watts * 2., 2.)

    def state(self):
        return dict(power_limit_w=100, windows=len(self.windows))


def test_energy_in_turns_gross_and_net(tiny, monkeypatch):
    meter = ScriptedMeter()
    monkeypatch.setattr(module, 'find_meter', lambda device, kind: meter)
    images = []

    def measure_window(meter, run, images_per_run, seconds, sync):
        meter.begin()
        images.append((run, images_per_run, seconds))
        return meter.end(), 4

    monkeypatch.setattr(module, 'measure_window', measure_window)
    monkeypatch.setattr(module, 'measure_idle',
                        lambda meter, seconds: meter.end())
    extra = []
    found = benchmark(
        [Entry('a', tiny), Entry('b', tiny)], Input(batch_size=2),
        Plan(2, 0.02, max_warm_up=0.1, energy_repeats=3, energy_seconds=12,
             cool_down=0.),
        lambda text, more: extra.append(more))
    assert sum(extra) == 1 + 2 * 3
    assert meter.windows == [5, 8, 20, 8, 20, 8, 20]
    assert {(n, s) for _, n, s in images} == {(2, 12)}
    a, b = (result.energy for result in found.results)
    assert a.joules_per_image == pytest.approx(16 / 4)
    assert b.joules_per_image == pytest.approx(40 / 4)
    assert a.net_of_idle == pytest.approx((16 - 10) / 4)
    assert b.net_of_idle == pytest.approx((40 - 10) / 4)
    assert found.no_energy == ''
    # Each network's own: before its first window, after its last.
    assert [e.before['windows'] for e in (a, b)] == [1, 2]
    assert [e.after['windows'] for e in (a, b)] == [6, 7]


def test_disturbed_results_say_so(tiny):
    found = benchmark([Entry('a', tiny)], Input(),
                      Plan(2, 0.02, max_warm_up=0., max_spread=0.,
                           meter='none'))
    said = ' '.join(found.results[0].problems)
    assert 'limit 0%' in said and 'warm-up' in said
    found.results[0].max_spread = math.inf
    found.results[0].latency.stable = True
    assert found.results[0].problems == []


@pytest.mark.parametrize(('plan', 'how', 'said'), [
    (dict(repeats=0), {}, '--repeats 0'),
    (dict(seconds=-1), {}, '--seconds -1'),
    (dict(seconds=math.nan), {}, '--seconds nan'),
    (dict(order='backwards'), {}, '--order backwards'),
    (dict(energy_repeats=0), {}, '--energy-repeats 0'),
    (dict(cool_down=-1), {}, '--cool-down -1'),
    ({}, dict(batch_size=0), '--batch-size 0'),
    ({}, dict(shape=[0, 4]), '--shape 0 4'),
    ({}, dict(device='cuda:7'), '--device cuda:7'),
    ({}, dict(device='gpu'), '--device gpu'),
    ({}, dict(device='meta'), 'only cpu and cuda'),
    ({}, dict(data='no/such/folder'), 'no/such/folder: no images'),
])
def test_bad_settings(tiny, plan, how, said):
    with pytest.raises(UserError, match=said) as error:
        benchmark([Entry('a', tiny)], Input(**how),
                  Plan(**{**vars(QUICK), **plan}))
    assert '\n' not in str(error.value)


def test_too_few_images(tiny, pictures):
    with pytest.raises(UserError, match='3 images are fewer than '
                       '--batch-size 4'):
        Subject(tiny, Input(data=str(pictures), batch_size=4))


def test_a_shape_that_the_network_cannot_take(tiny):
    # Its kernels of 5x5 do not fit into a padded image of 8x8.
    tiny.model.backbone = dict(type='mmpretrain.AlexNet')
    tiny.model.data_preprocessor.pad_size_divisor = 1
    with pytest.raises(UserError, match='tiny.py: AlexNet cannot run on cpu '
                       'in fp32 on images of shape 1x3x8x8 .*; try another '
                       '--shape'):
        Subject(tiny, Input(part='backbone', shape=[8]))


def test_no_backbone(tiny):
    del tiny.model.backbone
    with pytest.raises(UserError, match='tiny.py: has no model.backbone'):
        Subject(tiny, Input())


def test_the_cpu_is_there():
    assert find_device('cpu') == torch.device('cpu')
