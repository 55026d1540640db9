"""The CIFAR-10 study: what is found of a classifier is so."""
import copy
import json
import math
import re
from pathlib import Path

import vovnet  # noqa: F401  isort: skip  # first, for mmcv's operators
import pytest
import torch
from mmengine.config import Config
from torch import nn

from vovnet.analysis.aggregation_weights import (
    compute_aggregation_weights,
    draw_blocks,
)
from vovnet.analysis.complexity import compute_config_complexity
from vovnet.benchmark.latency import Latency
from vovnet.benchmark.memory import measure_memory
from vovnet.datasets import make_shape_folders
from vovnet.datasets.shape_folders import TEN_CLASSES
from vovnet.engine.build import build_network
from vovnet.paper import cifar_study as module
from vovnet.paper.cifar_study import (
    TrainedClassifier,
    build_training_step,
    compare_classifiers,
    compute_figure2,
    draw_figure2,
    list_rows,
    write_markdown,
)
from vovnet.utils.errors import UserError
from vovnet.utils.table import build_terminal_table

CONFIGS = Path(__file__).parents[2] / 'configs/cifar'
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('study') / 'data'
    make_shape_folders(root, 1, 2, size=32, classes=TEN_CLASSES)
    return root


@pytest.fixture(scope='module')
def networks(data):
    """Two of the study's configs on that data, with weights not trained."""
    found = []
    for name in ('densenet-40', 'osa-5-43'):
        cfg = Config.fromfile(CONFIGS / f'{name}_shapes.py')
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].dataset.data_root = str(data)
        torch.manual_seed(0)
        network = build_network(cfg)
        network.init_weights()
        file = data.parent / f'{name}.pth'
        torch.save(dict(state_dict=network.state_dict()), file)
        found.append(TrainedClassifier(name, cfg, str(file)))
    return found


@pytest.fixture(scope='module')
def found(networks, tmp_path_factory):
    said = []
    found = compare_classifiers(
        networks, str(tmp_path_factory.mktemp('logs')), batch_size=2,
        repeats=1, seconds=0.01, progress=said.append)
    assert [line for line in said if 'testing' in line] == [
        'densenet-40: testing', 'osa-5-43: testing']
    return found


def test_accuracy_is_that_of_the_network(networks, found, data):
    """Each picture of the test set through the network, by hand."""
    import cv2
    for network, result in zip(networks, found['results']):
        model = build_network(network.cfg)
        model.load_state_dict(torch.load(network.checkpoint)['state_dict'])
        model.eval()
        mean, std = (torch.tensor(network.cfg.data_preprocessor[k])
                     for k in ('mean', 'std'))
        right = []
        for label, folder in enumerate(sorted((data / 'val').iterdir())):
            for file in folder.iterdir():
                rgb = torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy())
                x = ((rgb - mean) / std).permute(2, 0, 1)[None]
                with torch.inference_mode():
                    features, = model.backbone(x)
                    scores = model.head.fc(features.mean((2, 3)))
                right.append(scores.argmax().item() == label)
        assert len(right) == 20
        assert result['accuracy'] == pytest.approx(5 * sum(right))


def test_costs_are_the_papers(found):
    """Its Eq. (1) gives 3.7 M and 2.5 M (2.6 M if rounded)."""
    dense, osa = found['results']
    assert dense['cost']['macs'] == pytest.approx(264.8e6, rel=1e-3)
    assert osa['cost']['macs'] == pytest.approx(263.7e6, rel=1e-3)
    assert round(dense['cost']['memory_access_cost'] / 1e6, 1) == 3.7
    assert math.floor(osa['cost']['memory_access_cost'] / 1e5) == 25
    assert dense['paper'] == dict(accuracy=94.76, memory_access_cost=3.7e6)
    assert osa['paper'] == dict(accuracy=94.56, memory_access_cost=2.5e6)


def test_the_page_counts_so():
    page = (CONFIGS.parents[1] / 'docs/cifar_study.md').read_text()
    rows = re.findall(
        r'\| (\S+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|\n', page)
    assert [row[0] for row in rows] == [
        'DenseNet-40', 'OSA-12/20', 'OSA-5/43']
    for name, *shown in rows:
        config = name.lower().replace('/', '-')
        for data in ('shapes', '1xb64_cifar10'):
            cost = compute_config_complexity(Config.fromfile(
                CONFIGS / f'{config}_{data}.py'), [32]).total
            counts = cost.params, cost.macs, cost.memory_access_cost
            assert [f'{c / 1e6:.{d}f}' for c, d in zip(
                counts, (3, 1, 2))] == shown


def test_steps_are_timed(found):
    for result in found['results']:
        assert result['step']['runs'] >= 3
        assert result['step']['median'] > 1e-3
    assert found['conditions']['images of a step'] == '2'
    assert found['conditions']['image, px'] == '32x32'
    assert 'torch' in found['conditions']


def test_dense_connections_need_more_memory(networks, found):
    """Peak: more than what autograd keeps, and in the paper's order."""
    for network, result in zip(networks, found['results']):
        model, tensors, _ = build_training_step(network.cfg, 2, CPU, (32, 32))
        kept = {}

        def keep(tensor, kept=kept):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        images = torch.randn(2, 3, 32, 32).contiguous(
            memory_format=torch.channels_last)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            out = model.head.fc(model.backbone(images)[0].mean((2, 3)))
        weights = sum(t.nbytes for t in model.parameters())
        # With AdamW's two averages of each weight, which are handed out.
        fixed = 3 * weights
        assert fixed < weights + sum(t.nbytes for t in tensors)
        activations = sum(kept.values()) - sum(
            size for pointer, size in kept.items() if pointer in {
                p.data_ptr() for p in model.parameters()})
        assert fixed + activations < result['memory']
        # The gradients, and what a layer works on.
        assert result['memory'] < fixed + weights + 1.5 * activations
        del out
    dense, osa = found['results']
    assert dense['memory'] > 1.5 * osa['memory']


def test_a_step_trains_as_the_config_says(networks):
    """Two steps of SGD from its own gradients, by the formula."""
    cfg = networks[1].cfg.copy()
    cfg.optim_wrapper = dict(optimizer=dict(
        type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01))
    torch.manual_seed(0)
    model, tensors, step = build_training_step(cfg, 2, CPU, (32, 32))
    images = tensors[0]
    assert images.shape == (2, 3, 32, 32) and images.dtype == torch.uint8
    weight, gradients, steps = model.head.fc.weight, [], []
    weight.register_hook(gradients.append)
    before = [weight.detach().clone()]
    for _ in range(2):
        step()
        before.append(weight.detach().clone())
        steps.append((before[-2] - before[-1]) / 0.1)
    # Nesterov: a step is d + 0.9 m, with d the gradient and the decay, and m
    # 0.9 of what it was, and d.
    first, second = (g + 0.01 * w for g, w in zip(gradients, before))
    momentum = steps[0] - first + second
    torch.testing.assert_close(steps[1], second + 0.9 * momentum,
                               rtol=1e-4, atol=1e-5)
    assert model.training
    # As ChannelsLastHook has it in the training.
    kernel = model.backbone.stem.conv.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_memory_of_a_step_with_known_tensors():
    """y = x w for a large x: what is kept, and the gradients."""
    x, layer = torch.randn(1000, 1000), nn.Linear(1000, 1000, bias=False)

    def build():
        return layer, [x], lambda: layer(x).sum().backward(
            inputs=list(layer.parameters()))

    memory, _ = measure_memory(build, CPU)
    # x, w, y and the gradient of w, perhaps that of y: 4 MB each.
    assert 16e6 <= memory.tensors <= 21e6


def test_table(found):
    first = dict(
        found['results'][0], name='a', accuracy=71.25, memory=123_000_000,
        step=Latency([[0.1, 0.25, 0.3]], [[0, 0, 0]]).to_dict(), paper=None)
    results = [first, found['results'][1]]
    rows = {row[0]: row[1:] for row in list_rows(dict(results=results))}
    assert rows[''] == ['a', 'osa-5-43']
    assert rows['accuracy, %'][0] == '71.2'
    assert rows["paper's accuracy, CIFAR-10, %"] == ['', '94.56']
    assert rows["paper's memory access cost, M"] == ['', '2.5']
    assert rows['step, ms'][0] == '250'
    assert rows['peak memory, MB'][0] == '123'
    assert rows['multiply-adds, M'] == ['264.8', '263.7']
    # Figures that no network has are left out.
    assert "paper's accuracy, CIFAR-10, %" not in {
        row[0] for row in list_rows(dict(results=results[:1]))}
    text = write_markdown(found)
    assert '| multiply-adds, M | 264.8 | 263.7 |' in text
    assert '- images of a step: 2' in text
    assert build_terminal_table(list_rows(found)).row_count == len(rows) - 1
    assert json.loads(json.dumps(found))['results'] == found['results']


def test_figure2(networks, tmp_path, monkeypatch):
    drawn = []

    def draw(blocks, columns):
        drawn.append((blocks, columns))
        return draw_blocks(blocks, columns=columns)

    monkeypatch.setattr(module, 'draw_blocks', draw)
    picture, numbers = draw_figure2(
        compute_figure2(networks), str(tmp_path))
    assert picture.stat().st_size > 10_000
    (blocks, columns), = drawn
    assert columns == 3
    assert [b.name for b in blocks] == [
        f'{name}, block{i}' for name in ('densenet-40', 'osa-5-43')
        for i in (1, 2, 3)]
    # The weights are the checkpoints'.
    model = build_network(networks[1].cfg)
    model.load_state_dict(torch.load(networks[1].checkpoint)['state_dict'])
    expected = compute_aggregation_weights(model)[1].values
    assert blocks[4].values == pytest.approx(expected, nan_ok=True)
    assert numbers.read_text().count('"osa-5-43, block2"') == 11


def test_figure2_of_different_networks(networks, tmp_path):
    cfg = copy.deepcopy(networks[1].cfg)
    cfg.model.backbone = dict(type='VoVNet', arch='V2-19-slim-dw',
                              out_indices=(3, ))
    cfg.model.head.in_channels = 512
    file = tmp_path / 'vovnet.pth'
    torch.save(dict(state_dict=build_network(cfg).state_dict()), file)
    with pytest.raises(UserError, match='mine has 4 blocks, osa-5-43 has 3'):
        compute_figure2([networks[1],
                         TrainedClassifier('mine', cfg, str(file))])


def test_errors(networks, tmp_path):
    osa = networks[1]
    no_accuracy = osa.cfg.copy()
    no_accuracy.test_evaluator = dict(type='SingleLabelMetric')
    for cfg, checkpoint, said in (
            (Config(dict(default_scope='mmdet')), 'x',
             'is not of a classifier'),
            (osa.cfg, networks[0].checkpoint, 'is of another model'),
            (no_accuracy, osa.checkpoint, 'has no accuracy/top1')):
        with pytest.raises(UserError, match=said):
            compare_classifiers([TrainedClassifier('x', cfg, checkpoint)],
                                str(tmp_path))
