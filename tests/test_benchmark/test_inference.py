"""vovnet.benchmark.inference on the CPU, and with a scripted meter."""
import copy
import json
import math
import re
import weakref
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads import SingleRoIExtractor
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vovnet.analysis import complexity, compute_config_complexity
from vovnet.analysis.complexity import compute_mean_cost
from vovnet.benchmark import inference
from vovnet.benchmark import model as model_module
from vovnet.benchmark.energy import Energy, Reading
from vovnet.benchmark.inference import (
    BenchmarkEntry,
    Plan,
    benchmark_inference,
    count_steps,
)
from vovnet.benchmark.model import BenchmarkModel, InputConfig
from vovnet.benchmark.report import list_rows, load, save, write_markdown
from vovnet.engine.config import load_config
from vovnet.utils import dummy_forward as forward
from vovnet.utils.devices import find_device
from vovnet.utils.errors import UserError

QUICK = Plan(repeats=2, seconds=0.02, max_warm_up=0.1, meter='none')


def round_trip(report):
    """What a report's JSON file holds."""
    return json.loads(json.dumps(report.to_dict()))


def entries_of(cfg, names):
    return [BenchmarkEntry(name, cfg) for name in names]


def measure(entries, inputs=None, plan=QUICK, **kwargs):
    return benchmark_inference(entries, inputs or InputConfig(), plan,
                               **kwargs)


def test_two_networks_side_by_side(tiny):
    wide = copy.deepcopy(tiny)
    wide.model.backbone.arch.aggregated_channels = (32, 16, 16)
    steps = []
    found = measure(
        [BenchmarkEntry('one', tiny),
         BenchmarkEntry('two', wide, accuracy=33.)],
        InputConfig(shape=[96, 64], batch_size=2),
        progress=lambda text, more: steps.append((text, more)))
    assert len(steps) == count_steps(QUICK, 2) and not any(m for _, m in steps)
    for result, cfg in zip(found.results, (tiny, wide)):
        assert result.cost == compute_config_complexity(cfg, [96, 64]).total
        assert result.shapes == {(2, 3, 96, 64): 1}
        seconds = np.median(sum(result.latency.repeats, []))
        assert len(result.latency.repeats) == 2
        fps, efficiency, share = result.compute_rates().values()
        assert fps == pytest.approx(2 / seconds)
        assert efficiency == pytest.approx(result.cost.macs * 2 / seconds)
        assert 0 < share < 1
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
    assert 'decoding and NMS' in told['timed']
    assert [row[1] for row in list_rows(found.to_dict())] == [
        'input, px', '96x64', '96x64']


@pytest.mark.parametrize('dtype', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('part', ['backbone', 'detector'])
def test_precisions(tiny, part, dtype):
    model = BenchmarkModel(tiny, InputConfig(part=part, dtype=dtype, nms=False,
                                  channels_last=True))
    kind = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
    out = model.run()
    maps = out if part == 'backbone' else out[0]
    assert {m.dtype for m in maps} == {kind[dtype]}
    assert model.tensors[0].is_contiguous(memory_format=torch.channels_last)
    weight = next(p for p in model.network.parameters() if p.dim() == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.dtype == (kind[dtype] if part == 'backbone' else
                            torch.float32)
    assert not maps[0].requires_grad


def test_random_networks_keep_their_activations(tiny):
    """BN's statistics are those of noise: the maps have about size one."""
    model = BenchmarkModel(tiny, InputConfig(part='backbone'))
    for level in model.run():
        assert 0.1 < level.std() < 10


def test_statistics_are_computed_where_the_network_is():
    """Also of a network on a device that holds no numbers."""
    network, seen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), []
    network[0].register_forward_hook(
        lambda conv, args, out: seen.append(args[0].device.type))
    model_module._set_statistics(network.to('meta'), torch.ones(1, 3, 8, 8))
    assert seen == ['meta']


def test_a_network_is_on_the_device_before_its_statistics(tiny, monkeypatch):
    order = []
    monkeypatch.setattr(model_module, '_set_statistics', lambda network, _:
                        order.append(next(network.parameters()).device.type))
    monkeypatch.setattr(model_module, '_convert', lambda network, batches, _: (
        order.append('convert'), batches)[1])
    with pytest.raises(UserError):  # nothing runs on meta with real images
        BenchmarkModel(tiny, InputConfig(part='backbone', device='meta'))
    assert order == ['meta', 'convert']


class Operators(TorchDispatchMode):
    """Notes what is run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name)
        return function(*args, **kwargs or {})


def test_a_network_alone_is_timed(tiny):
    """Nothing is made for RoIs that a detector does not have."""
    model = BenchmarkModel(tiny, InputConfig(nms=False))
    images, samples = model.batches[0]
    with torch.no_grad(), Operators() as plain:
        model.network(images, samples, mode='tensor')
    with Operators() as timed:
        model.run()
    assert timed.names == plain.names


def test_proposals_are_made_on_the_device(two_stage):
    """A copy from the host would wait for the device, in timed code."""
    model = BenchmarkModel(two_stage, InputConfig(shape=[96], nms=False))
    with Operators() as made, forward._fix_proposals(
            model.network, model.tensors[0]):
        [found] = model.network.rpn_head.predict_by_feat()
    assert found.bboxes.shape == (1000, 4)
    assert found.bboxes.unique(dim=0).tolist() == [[0, 0, 32, 32]]
    assert made.names and not {'aten::_to_copy', 'aten::lift_fresh',
                               'aten::copy_'} & set(made.names)


def test_nms_in_and_out(tiny):
    with_nms, without = (BenchmarkModel(tiny, InputConfig(nms=nms))
                         for nms in (True, False))
    [sample] = with_nms.run()
    assert len(sample.pred_instances) == with_nms.count_detections() == 7
    cls_scores, *_ = without.run()
    assert [tuple(s.shape) for s in cls_scores] == [
        (1, 5, 8, 8), (1, 5, 4, 4)]
    assert without.count_detections() is None


@pytest.fixture
def pictures(tmp_path):
    for i, (height, width) in enumerate([(64, 64), (32, 64), (64, 64)]):
        image = np.random.default_rng(i).integers(
            0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f'{i}.png'), image)
    return tmp_path


def test_real_images(tiny, pictures):
    model = BenchmarkModel(tiny, InputConfig(data=str(pictures)))
    assert model.shapes == {(1, 3, 64, 64): 2, (1, 3, 32, 64): 1}
    pixels = cv2.imread(str(pictures / '1.png')).transpose(2, 0, 1)
    assert torch.equal(model.tensors[1][0],
                       torch.from_numpy(pixels).float())
    cost, _ = compute_mean_cost(tiny, model.shapes)
    whole, half = (compute_config_complexity(tiny, shape).total
                   for shape in ([64, 64], [32, 64]))
    assert cost.macs == pytest.approx((2 * whole.macs + half.macs) / 3)
    assert cost.params == whole.params
    seen = []
    for _ in range(4):
        model.run()
        seen.append(model.run.batch)
    assert sorted(set(seen)) == [0, 1, 2] and seen[0] == seen[3]


def test_trained_weights(tiny, tmp_path):
    first = BenchmarkModel(tiny, InputConfig(nms=False))
    file = tmp_path / 'w.pth'
    torch.save(dict(state_dict=first.network.state_dict()), file)
    for part in 'detector', 'backbone':
        again = BenchmarkModel(tiny, InputConfig(part=part, nms=False),
                               str(file))
        whole = first.run() if part == 'detector' else [
            first.network.backbone(first.tensors[0])]
        out = again.run() if part == 'detector' else [again.run()]
        for a, b in zip(whole, out):
            assert all(map(torch.equal, a, b))


class ScriptedMeter:
    """Idle 5 W; at work 8 W for one network and 20 W for the other."""
    method, scope, min_seconds = 'script', 'nothing', 0.

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
    monkeypatch.setattr(inference, 'find_meter', lambda device, kind: meter)
    images = []

    def measure_window(meter, run, images_per_run, seconds, sync):
        meter.begin()
        images.append((run, images_per_run, seconds))
        return meter.end(), 4

    monkeypatch.setattr(inference, 'measure_window', measure_window)
    monkeypatch.setattr(inference, 'measure_idle',
                        lambda meter, seconds: meter.end())
    rests = []
    monkeypatch.setattr(inference.time, 'sleep', rests.append)
    extra = []
    found = benchmark_inference(
        entries_of(tiny, 'ab'), InputConfig(batch_size=2),
        Plan(2, 0.02, max_warm_up=0.1, energy_repeats=3, energy_seconds=12,
             cool_down=3.),
        lambda text, more: extra.append(more))
    assert sum(extra) == 1 + 2 * 3
    assert rests == [3] * 7  # also before the idle window
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


def broken(cfg):
    """A config whose network fails when it is run."""
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.arch.aggregated_channels = (16, 24, 16)  # not the neck
    return cfg


def test_a_network_that_fails_is_named_and_the_others_go_on(tiny):
    saves = []
    found = measure(
        [BenchmarkEntry('good', tiny), BenchmarkEntry('bad', broken(tiny)),
         BenchmarkEntry('fine', tiny)],
        save=lambda report: saves.append(round_trip(report)))
    good, bad, fine = found.results
    for result in good, fine:
        assert result.latency.median > 0 and not result.failure
    assert 'cannot run on cpu' in bad.failure
    assert bad.compute_rates()['fps'] is None
    assert bad.problems == [f'failed: {bad.failure}']
    text = write_markdown(found.to_dict())
    assert f'bad ! failed: {bad.failure}.' in text
    row = next(line for line in text.splitlines() if line[:5] == '| bad')
    assert '| n/a |' in row
    # After each network, each warm-up and each turn.
    assert len(saves) > 3 + 2 + 2 * 2
    assert [one['memory'] is not None for one in saves[0]['results']] == [
        True, False, False]
    assert saves[0]['results'][0]['latency'] is None
    with pytest.raises(UserError, match='^bad: .* cannot run on cpu'):
        measure(entries_of(broken(tiny), ['bad']))


@pytest.mark.parametrize(('error', 'said'), [
    (torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB. '
                            'GPU 0 has'), '^CUDA out of memory; lower '
     '--batch-size or --shape$'),
    (RuntimeError('an illegal memory access\nwas met'),
     '^RuntimeError: an illegal memory access$')])
def test_a_network_that_fails_in_its_turn(tiny, error, said, monkeypatch):
    """What it had until then stays; nothing holds it any longer."""
    turns_taken, alive = [], []
    real = inference.take_turn

    def take_turn(latency, run, *args):
        turns_taken.append(run)
        if len(turns_taken) == 4:  # of the second network, in its second
            alive.append(weakref.ref(run))
            turns_taken.clear()
            raise error
        real(latency, run, *args)

    monkeypatch.setattr(inference, 'take_turn', take_turn)
    found = measure(entries_of(tiny, 'ab'), plan=replace(QUICK, repeats=3))
    a, b = found.results
    assert len(a.latency.repeats) == 3 and len(b.latency.repeats) == 1
    assert re.search(said, b.failure) and not a.failure
    error.__traceback__ = None
    assert alive[0]() is None


def test_a_device_that_is_lost_ends_the_run(tiny, monkeypatch):
    """CUDA fails for all networks after an illegal access: no more blame."""
    saves, real = [], inference.take_turn

    def take_turn(latency, run, *args):
        if saves and saves[-1][0].latency:
            raise torch.AcceleratorError('CUDA error: illegal memory access')
        real(latency, run, *args)

    monkeypatch.setattr(inference, 'take_turn', take_turn)
    with pytest.raises(UserError, match='b: AcceleratorError: .*; cpu cannot '
                       'be used any longer'):
        measure(entries_of(tiny, 'abc'),
                  save=lambda report: saves.append(list(report.results)))
    assert [bool(r.failure) for r in saves[-1]] == [False, True, False]


def test_a_run_that_was_ended_is_resumed(tiny, tmp_path, monkeypatch):
    """Nothing that is complete is measured again."""
    class End(BaseException):
        """As a signal."""

    entries = entries_of(tiny, 'ab')
    meter = ScriptedMeter()
    monkeypatch.setattr(inference, 'find_meter', lambda device, kind: meter)
    monkeypatch.setattr(inference.time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(inference, 'measure_idle',
                        lambda meter, seconds: Reading(10., 2.))
    windows, file = [], str(tmp_path / 'a.json')

    def measure_window(meter, run, *args):
        windows.append(run)
        if len(windows) == 4:
            raise End
        return Reading(20. + len(windows), 2.), 4

    monkeypatch.setattr(inference, 'measure_window', measure_window)
    plan = Plan(2, 0.02, max_warm_up=0.1, energy_repeats=3)
    with pytest.raises(End):
        measure(entries, plan=plan, save=lambda report: save(
            report.to_dict(), [file]))
    saved = load([file])
    first = [r['latency']['repeats'] for r in saved['results']]
    assert [len(r['energy']['windows']) for r in saved['results']] == [2, 1]
    built = []
    real = inference.BenchmarkModel
    monkeypatch.setattr(inference, 'BenchmarkModel', lambda *args: (
        built.append(args), real(*args))[1])
    found = measure(entries, plan=plan, saved=saved)
    assert [r.latency.repeats for r in found.results] == first
    assert len(windows) == 4 + 1 + 2
    assert [[w.reading.joules for w in r.energy.windows]
            for r in found.results] == [[21, 23, 25], [22, 26, 27]]
    assert len(built) == 2
    date = saved['conditions']['date']
    assert found.notes == [f'{inference.KEPT} a, b, on {date}.']
    # And what has everything is not even built.
    again = measure(entries, plan=plan, saved=found.to_dict())
    assert len(built) == 2 and again.to_dict()['results'] == found.to_dict()[
        'results']
    # Another network of that name, or another batch, is not taken for it.
    wide = copy.deepcopy(tiny)
    wide.model.backbone.arch.stage_channels = (16, 8, 8)
    measure([entries[0], BenchmarkEntry('b', wide)], plan=plan,
            saved=found.to_dict())
    assert len(built) == 3
    with pytest.raises(UserError, match='batch: 1, and this is 2; choose '
                       'another --out'):
        measure(entries, InputConfig(batch_size=2), plan, saved=saved)


def test_only_missing_turns_are_taken(tiny, monkeypatch):
    """Of a run that was ended while it took turns, on another host."""
    entries = entries_of(tiny, 'ab')
    saves = []
    plan = replace(QUICK, repeats=4)
    measure(entries, plan=plan,
            save=lambda report: saves.append(round_trip(report)))
    [saved, *_] = [save for save in saves if [
        len((one['latency'] or {}).get('repeats', []))
        for one in save['results']] == [2, 1]]
    saved['conditions']['system'] = 'another kernel'
    taken, real = [], inference.take_turn
    monkeypatch.setattr(inference, 'take_turn', lambda *args: (
        taken.append(args), real(*args))[1])
    found = measure(entries, plan=plan, saved=saved)
    assert len(taken) == 2 + 3
    for result, one in zip(found.results, saved['results']):
        before = one['latency']['repeats']
        assert result.latency.repeats[:len(before)] == before
        assert len(result.latency.repeats) == 4


def test_what_failed_is_tried_again(tiny):
    found = measure(
        entries_of(tiny, 'a') + entries_of(broken(tiny), 'b'))
    saved = round_trip(found)
    for one in saved['results']:  # as if the config had been right
        one['model_crc32'] = saved['results'][0]['model_crc32']
    again = measure(entries_of(tiny, 'ab'),
                      saved=saved)
    assert [r.failure for r in again.results] == ['', '']
    assert again.results[0].latency.repeats == found.results[
        0].latency.repeats
    assert again.results[1].compute_rates()['fps'] > 0


def test_disturbed_results_say_so(tiny):
    found = measure(entries_of(tiny, 'a'), plan=replace(
        QUICK, max_warm_up=0., max_spread=0.))
    said = ' '.join(found.results[0].problems)
    assert 'limit 0%' in said and 'warm-up' in said
    found.results[0].max_spread = math.inf
    found.results[0].latency.stable = True
    assert found.results[0].problems == []


def test_energy_that_differs_between_windows_says_so(tiny):
    [result] = measure(entries_of(tiny, 'a')).results
    result.max_spread = 1.
    result.energy = Energy('a counter', 'board', 3., spread=1.67)
    assert 'differ by 167% in energy (limit 100%)' in result.problems[-1]
    result.energy.spread = 0.9
    assert not any('in energy' in problem for problem in result.problems)


@pytest.fixture
def two_stage():
    """Faster R-CNN as mmdet has it, on a backbone of VoVNet's kind."""
    cfg = load_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.update(depth=18, init_cfg=None)
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    return cfg


@pytest.mark.parametrize('batch_size', [1, 3])
def test_two_stages_with_their_own_proposals(two_stage, batch_size,
                                             monkeypatch):
    calls, boxes = [], []
    predict = RPNHead.predict_by_feat

    def count(self, *args, **kwargs):
        found = predict(self, *args, **kwargs)
        calls.append([len(proposals) for proposals in found])
        return found

    extract = SingleRoIExtractor.forward
    monkeypatch.setattr(RPNHead, 'predict_by_feat', count)
    monkeypatch.setattr(
        SingleRoIExtractor, 'forward', lambda self, feats, rois, *args:
        (boxes.append(rois), extract(self, feats, rois, *args))[1])
    model = BenchmarkModel(
        two_stage, InputConfig(shape=[96], batch_size=batch_size))
    boxes.clear(), calls.clear()
    model.run()
    [numbers], [rois] = calls, boxes
    assert len(numbers) == batch_size and sum(numbers) == len(rois)
    assert set(rois[:, 0].int().tolist()) == set(range(batch_size))
    # Without NMS the RPN's boxes are not made, and it has them again after.
    calls.clear(), boxes.clear()
    without = BenchmarkModel(two_stage, InputConfig(shape=[96], nms=False))
    boxes.clear()
    without.run()
    assert calls == [] and [len(rois) for rois in boxes] == [1000]
    assert 'predict_by_feat' not in vars(without.network.rpn_head)


@pytest.mark.parametrize('config', [
    'mmdet::detr/detr_r50_8xb2-150e_coco.py', 'mmdet::ssd/ssd300_coco.py'])
def test_detectors_that_need_care(config):
    """DETR's head changes its config; SSD's cannot predict in mmdet 3.3.0."""
    cfg = load_config(config)
    shape = [300] if 'ssd' in config else [64]
    model = BenchmarkModel(cfg, InputConfig(shape=shape))
    [sample] = model.run()
    assert sample.pred_instances.bboxes.shape[1] == 4
    cost, _ = compute_mean_cost(cfg, model.shapes)
    assert cost.params == sum(p.numel() for p in model.network.parameters())


def test_what_cannot_be_counted_is_timed(tiny, monkeypatch):

    def fail(*args):
        raise UserError('no such luck')

    monkeypatch.setattr(complexity, 'compute_config_complexity', fail)
    [found] = measure(entries_of(tiny, 'a')).results
    fps, efficiency, share = found.compute_rates().values()
    assert found.cost is None and fps > 0
    assert efficiency is None and share is None
    assert 'no such luck' in found.notes[0]
    assert 'macs' not in found.to_dict()


def test_a_backbone_takes_the_shape_as_it_is(tiny):
    """pad_size_divisor is the whole model's."""
    alone = BenchmarkModel(tiny, InputConfig(part='backbone', shape=[50]))
    whole = BenchmarkModel(tiny, InputConfig(shape=[50]))
    assert list(alone.shapes) == [(1, 3, 50, 50)]
    assert list(whole.shapes) == [(1, 3, 64, 64)]


def test_a_classifier(tiny):
    cfg = load_config('configs/cifar/osa-5-43_1xb64_cifar10.py')
    [sample] = BenchmarkModel(cfg, InputConfig(shape=[32])).run()
    assert sample.pred_score.shape == (10, )


def test_a_checkpoint_of_the_backbone_alone(tiny, tmp_path):
    first = BenchmarkModel(tiny, InputConfig(part='backbone'))
    file = tmp_path / 'b.pth'
    torch.save(first.network.state_dict(), file)
    again = BenchmarkModel(tiny, InputConfig(part='backbone'), str(file))
    assert all(map(torch.equal, first.run(), again.run()))


@pytest.mark.parametrize(('plan', 'how', 'said'), [
    (dict(repeats=0), {}, '--repeats 0'),
    (dict(seconds=-1), {}, '--seconds -1'),
    (dict(seconds=math.nan), {}, '--seconds nan'),
    (dict(seconds=math.inf), {}, '--seconds inf'),
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
        benchmark_inference(entries_of(tiny, 'a'), InputConfig(**how),
                  Plan(**{**vars(QUICK), **plan}))
    assert '\n' not in str(error.value)


def test_too_few_images(tiny, pictures):
    with pytest.raises(UserError, match='3 images are fewer than '
                       '--batch-size 4'):
        BenchmarkModel(tiny, InputConfig(data=str(pictures), batch_size=4))


def test_a_shape_that_the_network_cannot_take(tiny):
    # Its kernels of 5x5 do not fit into a padded image of 8x8.
    tiny.model.backbone = dict(type='mmpretrain.AlexNet')
    tiny.model.data_preprocessor.pad_size_divisor = 1
    with pytest.raises(UserError, match='tiny.py: AlexNet cannot run on cpu '
                       'in fp32 on images of shape 1x3x8x8 .*; try another '
                       '--shape'):
        BenchmarkModel(tiny, InputConfig(part='backbone', shape=[8]))


def test_no_backbone(tiny):
    del tiny.model.backbone
    for model in (tiny.model, [1], None):
        tiny.model = model
        with pytest.raises(UserError, match='tiny.py: has no model.backbone'):
            BenchmarkModel(tiny, InputConfig())


def test_the_cpu_is_there():
    assert find_device('cpu') == torch.device('cpu')


@pytest.mark.parametrize(('name', 'index'), [('cuda', 0), ('cuda:1', 1)])
def test_a_gpu_becomes_the_current_one(name, index, monkeypatch):
    """Timers synchronize the current device, not the model's."""
    chosen = []
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setattr(torch, 'zeros', lambda *args, device: None)
    assert find_device(name) == torch.device('cuda', index)
    assert chosen == [torch.device('cuda', index)]
