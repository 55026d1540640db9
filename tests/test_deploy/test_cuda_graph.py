"""vovnet.deploy.optimize.cuda_graph, on operators instead of kernels."""
import fake_cuda_graph
import pytest
import torch
from test_optimize import IMAGES, assert_close, backbone, build

from vovnet.deploy.optimize import apply, cuda_graph, optimize
from vovnet.deploy.optimize.cuda_graph import CUDAGraphed
from vovnet.deploy.optimize.modes import MODES
from vovnet.utils.dummy_forward import run_network


@pytest.fixture
def graphs(any_bf16, monkeypatch):
    monkeypatch.setattr(apply, 'check_mode', lambda name, _: MODES[name])
    return fake_cuda_graph.install(monkeypatch)


def test_inputs_are_copied_and_kernels_replayed(graphs):
    calls = []

    def function(x, pair, scale):
        calls.append(x)
        return [x * scale, dict(total=pair[0] + pair[1])]

    run = CUDAGraphed(function)
    for i in (1., 2., 3.):
        x = torch.full((2, ), i)
        product, sums = run(x, (x, 2 * x), scale=5.)
        assert product.tolist() == [5 * i] * 2
        assert sums['total'].tolist() == [3 * i] * 2
    assert len(calls) == 4  # three to warm up, one to record
    assert [graph.replays for graph in graphs] == [3]


@pytest.mark.parametrize('other', [
    torch.ones(3), torch.ones(2, dtype=torch.half), torch.ones(2, 2)[:, 0]])
def test_other_inputs_are_recorded_anew(graphs, other):
    run = CUDAGraphed(lambda x: x + 1)
    first = run(torch.zeros(2))
    assert run(other).tolist() == (other + 1).tolist()
    assert len(graphs) == 2 and first.tolist() == [1, 1]
    assert CUDAGraphed(lambda x, n: x * n)(torch.ones(1), 3).item() == 3


def test_recorded_in_inference_mode_and_replayed_outside(graphs):
    run = CUDAGraphed(lambda x: x + 1)
    with torch.inference_mode():
        run(torch.ones(2))
    with torch.no_grad():
        assert run(torch.full((2, ), 5.)).tolist() == [6, 6]


def test_no_more_graphs_than_the_limit(graphs):
    run = CUDAGraphed(lambda x: x + 1)
    for size in range(1, cuda_graph.LIMIT + 4):
        assert len(run(torch.zeros(size))) == size
    assert len(graphs) == cuda_graph.LIMIT


@pytest.mark.parametrize('mode', ['graph', 'bf16-graph'])
def test_backbone(graphs, mode):
    plain = backbone(stem='strided', residual=True, ese='all')
    other = torch.randn(IMAGES.shape)
    with torch.no_grad():
        fast = optimize(plain, mode, IMAGES)
        for images in (IMAGES, other, IMAGES[:1, :, :64]):
            assert_close(fast(images), plain(images),
                         1e-4 if mode == 'graph' else 0.06)
    assert [graph.replays for graph in graphs] == [3, 1]


@pytest.mark.parametrize('name', ['RetinaNet', 'two stages'])
@pytest.mark.parametrize('mode', ['graph', 'bf16-graph'])
def test_detectors(graphs, name, mode):
    """Backbone, neck and head one behind the other; RoI heads as they are."""
    plain = build(name)
    with torch.no_grad():
        fast = optimize(plain, mode, IMAGES[:1])
        for images in (IMAGES[:1], IMAGES[1:]):
            assert_close(run_network(fast, images),
                         run_network(plain, images),
                         1e-4 if mode == 'graph' else 0.1)
    assert [graph.replays for graph in graphs] == [3, 3, 3]
