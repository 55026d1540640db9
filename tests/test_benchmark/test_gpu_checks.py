"""vovnet.benchmark.gpu_checks: on a CPU, and where something is wrong."""
import copy
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from vovnet.benchmark import gpu_checks
from vovnet.benchmark.gpu_checks import CHECKS, check_memory, check_recompute
from vovnet.benchmark.memory import Memory
from vovnet.benchmark.model import BenchmarkModel, InputConfig
from vovnet.models import recompute

CPU = torch.device('cpu')


@pytest.mark.parametrize('wrong', [None, 'one weight', 'statistics'])
def test_recompute(wrong, monkeypatch):
    """A gradient that is twice as large, a buffer that moves twice."""
    monkeypatch.setattr(gpu_checks, 'NORMS', dict(
        gpu_checks.NORMS, GN=dict(norm_eval=True)))
    if wrong == 'one weight':
        real = recompute._backward_ese

        def backward_ese(gate, *args):
            dh = real(gate, *args)
            gate.grads[1] *= 2  # of the bias
            return dh

        monkeypatch.setattr(recompute, '_backward_ese', backward_ese)
    if wrong == 'statistics':
        real_norm = recompute._normalize

        def normalize(norm, z):
            found = real_norm(norm, z)
            if isinstance(norm, nn.BatchNorm2d) and norm.training:
                norm.running_mean.mul_(1.1)
            return found

        monkeypatch.setattr(recompute, '_normalize', normalize)
    found = check_recompute(CPU, small=True)
    assert found['cases'] == 8 and found['ok'] == (wrong is None)
    assert bool(found['failures']) == (wrong is not None)
    if wrong == 'one weight':
        assert all('fc.bias differs' in line for line in found['failures'])


def test_modes_and_what_is_wrong_with_one(tiny, monkeypatch):
    monkeypatch.setattr(gpu_checks, 'BACKBONE', 'tiny')
    monkeypatch.setattr(gpu_checks, 'DETECTORS', dict(RetinaNet='tiny'))
    monkeypatch.setattr(gpu_checks, 'load_config', lambda _: tiny)
    found = CHECKS['modes'](CPU, True)
    assert found['ok'] and found['modes']['detector, fold']['ok']
    assert 'need a GPU' in found['modes']['backbone, graph']

    def optimize(network, mode, images):
        network = copy.deepcopy(network)
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.data += 0.1
            elif isinstance(module, nn.BatchNorm2d):
                module.bias.data += 0.1
        return network

    monkeypatch.setattr(gpu_checks, 'optimize', optimize)
    found = CHECKS['modes'](CPU, True)
    assert not found['ok'] and 'detector, fold' in found['failures']


def test_sixteen_bits_may_round_as_autocast_does(tiny, any_bf16):
    subject = BenchmarkModel(tiny, InputConfig('detector', False, (64, )))
    with torch.no_grad():
        found = gpu_checks._check_mode(subject, 'bf16')
    assert found['ok'] and len(found['differences']) == 6
    assert 1e-3 < max(found['differences']) <= max(found['limits']) < 0.5


def test_memory_of_the_first(monkeypatch):
    sizes = iter([130, 100, 100])
    monkeypatch.setattr(gpu_checks, 'load_config', lambda _: None)
    monkeypatch.setattr(gpu_checks, 'measure_memory', lambda build, device: (
        Memory(next(sizes), None, None), None))
    assert not check_memory(CPU, True)['ok']


def test_a_network_that_waits_is_named(tiny, monkeypatch):
    """torch raises where the host would wait for the device."""
    monkeypatch.setattr(gpu_checks, 'load_config', lambda _: tiny)
    assert CHECKS['synchronization'](CPU, True)['ok']

    class Waiting(BenchmarkModel):

        def __init__(self, *args):
            super().__init__(*args)
            self.run = Mock(side_effect=[None, RuntimeError(
                'called a synchronizing CUDA operation\nat')])

    monkeypatch.setattr(gpu_checks, 'BenchmarkModel', Waiting)
    found = CHECKS['synchronization'](CPU, True)
    assert not found['ok'] and set(found['waits'].values()) == {
        'called a synchronizing CUDA operation'}
