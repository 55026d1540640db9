"""Networks that take part in several modes."""
from functools import partial

import pytest
import torch
from torch._inductor import config

from vovnet.benchmark import inference
from vovnet.benchmark.inference import (
    BenchmarkEntry,
    Plan,
    benchmark_inference,
    expand_modes,
)
from vovnet.benchmark.latency import measure_matmul_peak
from vovnet.benchmark.model import BenchmarkModel, InputConfig
from vovnet.benchmark.report import write_markdown
from vovnet.deploy.optimize import modes
from vovnet.engine.config import create_timm_config
from vovnet.utils.errors import UserError

QUICK = Plan(repeats=2, seconds=0.02, max_warm_up=0.1, meter='none')


@pytest.fixture
def no_compiler():
    with config.patch({'cpp.cxx': ('no-such-compiler', )}):
        yield


def test_auto_says_what_it_leaves_out(tiny, no_compiler, monkeypatch):
    monkeypatch.setattr(torch.cpu, 'get_capabilities',
                        lambda: dict(avx512_bf16=True))
    entries = [BenchmarkEntry('a', tiny), BenchmarkEntry('b', tiny)]
    found, left = expand_modes(entries, InputConfig(), ['auto'])
    assert [e.name for e in found] == [
        f'{name}, {mode}' for name in 'ab'
        for mode in ('eager', 'fold', 'bf16')]
    reasons = {line.partition(':')[0]: line for line in left}
    assert 'C++ compiler' in reasons['compile']
    assert 'decodes no boxes' in reasons['openvino']
    assert 'needs a GPU' in reasons['fp16']
    found, left = expand_modes(entries[:1], InputConfig(nms=False), ['auto'])
    assert [e.mode for e in found] == [
        'eager', 'fold', 'bf16', 'onnxruntime', 'openvino', 'openvino-bf16']
    with pytest.raises(UserError, match=r'mode compile: .*install g\+\+'):
        expand_modes(entries, InputConfig(), ['compile'])
    with pytest.raises(UserError, match='whose modes set them'):
        expand_modes(entries, InputConfig(channels_last=True), ['fold'])


def test_the_table_has_modes_and_the_fastest(tiny, any_bf16, monkeypatch):
    # A large one takes minutes where bf16 is imitated.
    monkeypatch.setattr(inference, 'measure_matmul_peak', partial(
        measure_matmul_peak, sizes=(256, ), seconds=0.02))
    inputs = InputConfig(nms=False)
    entries, _ = expand_modes([BenchmarkEntry('a', tiny)], inputs,
                              ['eager', 'bf16', 'openvino'])
    report = benchmark_inference(entries, inputs, QUICK)
    plain, low, other = report.results
    assert plain.difference == 0 < other.difference < 1e-4 < low.difference
    first, second, _ = report.to_dict()['results']
    assert first['of_first'] == 1
    assert second['of_first'] == pytest.approx(
        low.latency.median / plain.latency.median)
    # Each is compared with the matrix product of its own precision.
    assert plain.peak == other.peak != low.peak
    assert plain.cost == low.cost == other.cost
    assert plain.memory.tensors > 0 and other.memory.tensors is None
    text = write_markdown(report.to_dict())
    fastest = min(report.results, key=lambda r: r.latency.median)
    assert f'Fastest: {fastest.entry.name}, ' in text
    assert 'bf16: bf16, folded, channels last, on a CPU' in text
    assert [r['mode'] for r in report.to_dict()['results']] == [
        'eager', 'bf16', 'openvino']


def test_without_modes_the_table_is_as_before(tiny):
    report = benchmark_inference([BenchmarkEntry('a', tiny)], InputConfig(),
                                 QUICK)
    text = write_markdown(report.to_dict())
    assert 'of the first' not in text and 'difference' not in text
    assert 'Fastest' not in text


def test_predictions_in_a_mode(tiny, any_bf16):
    model = BenchmarkModel(tiny, InputConfig(), mode='bf16')
    [sample] = model.run()
    assert len(sample.pred_instances) == 7 == model.count_detections()
    assert sample.pred_instances.bboxes.dtype == torch.float32
    assert model.dtype == 'bf16' and model.foreign


@pytest.mark.parametrize('part', ['backbone', 'detector'])
def test_nothing_is_compiled_twice(tiny, part, monkeypatch):
    """What a benchmark times is what was compiled when it was built."""
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    real = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda forward, fullgraph, mode: (
        real(forward, fullgraph=fullgraph, backend=count)))
    monkeypatch.setattr(modes, '_find_missing_compiler', lambda cuda: None)
    torch._dynamo.reset()
    model = BenchmarkModel(tiny, InputConfig(part=part, nms=False),
                           mode='compile')
    built = len(graphs)
    model.run()
    # Backbone alone; or with neck and head.
    assert len(graphs) == built == (1 if part == 'backbone' else 3)


def test_networks_of_timm():
    timm = pytest.importorskip('timm')
    name = 'ese_vovnet19b_slim_dw'
    model = BenchmarkModel(create_timm_config(name),
                           InputConfig(part='backbone', shape=[64]))
    info = timm.create_model(name, features_only=True).feature_info
    assert [tuple(m.shape[1:]) for m in model.run()] == [
        (channels, 64 // stride, 64 // stride) for channels, stride in zip(
            info.channels()[1:], info.reduction()[1:])]
    with pytest.raises(UserError,
                       match='no such network; similar ones: .*39b'):
        create_timm_config('vovnet39b')
