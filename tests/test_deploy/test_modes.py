"""vovnet.deploy.optimize.modes: what each mode needs of a machine."""
from importlib.util import find_spec

import pytest
import torch
from torch._inductor import config

from vovnet.deploy.optimize import modes
from vovnet.deploy.optimize.modes import (
    MODES,
    check_mode,
    find_obstacle,
)
from vovnet.utils.errors import UserError

CPU, CUDA = torch.device('cpu'), torch.device('cuda', 0)


def refused(name, device=CPU):
    with pytest.raises(UserError) as error:
        check_mode(name, device)
    line = str(error.value)
    assert line.startswith(f'mode {name}: ') and '\n' not in line
    assert find_obstacle(name, device) in line
    return line


def test_plain_modes_need_nothing(monkeypatch):
    monkeypatch.setattr(modes, 'find_spec', lambda name: None)
    monkeypatch.setattr(torch.cpu, 'get_capabilities', dict)
    assert check_mode('eager', CPU) is MODES['eager']
    assert check_mode('fold', CPU).fold


@pytest.mark.parametrize(('name', 'package'), [
    ('onnxruntime', 'onnxruntime'), ('openvino', 'openvino'),
    ('openvino-bf16', 'openvino')])
def test_a_package_that_is_missing_is_named(name, package, monkeypatch):
    monkeypatch.setattr(modes, 'find_spec', lambda name: (
        None if name == package else find_spec(name)))
    assert refused(name).endswith(f'`pip install {package}`')


def test_runtimes_are_for_the_cpu():
    assert '--device cpu' in refused('onnxruntime', CUDA)


@pytest.mark.parametrize('feature', [None, 'avx512_bf16', 'amx_bf16', 'bf16'])
def test_bf16_is_not_emulated(feature, monkeypatch):
    """AVX-512 and AMX on x86, the last on Arm."""
    monkeypatch.setattr(torch.cpu, 'get_capabilities',
                        lambda: {'avx2': True, feature: True})
    for name in 'bf16', 'openvino-bf16':
        if feature:
            assert find_obstacle(name, CPU) is None
        else:
            assert 'no bf16 instructions' in refused(name)


def test_fp16_and_cuda_graphs_are_for_gpus(monkeypatch):
    monkeypatch.setattr(modes, '_has_native_bf16', lambda cuda: True)
    assert 'needs a GPU' in refused('fp16')
    assert find_obstacle('fp16', CUDA) is None
    for name in 'graph', 'bf16-graph':
        assert 'CUDA graphs need a GPU' in refused(name)
    assert find_obstacle('graph', CUDA) is None


@pytest.mark.parametrize('native', [True, False])
def test_bf16_is_not_emulated_by_gpus(native, monkeypatch):
    """torch says yes to those that emulate it, unless it is asked."""
    monkeypatch.setattr(
        torch.cuda, 'is_bf16_supported',
        lambda including_emulation=True: including_emulation or native)
    for name in 'bf16', 'bf16-graph':
        assert (find_obstacle(name, CUDA) is None) == native


@config.patch({'cpp.cxx': ('no-such-compiler', )})
def test_the_compiler_that_is_missing_is_named():
    line = refused('compile')
    assert 'g++' in line and 'CXX' in line
    assert find_obstacle('fold', CPU) is None


def test_compiling_for_a_gpu_needs_triton(monkeypatch):
    from torch.utils import _triton
    monkeypatch.setattr(_triton, 'has_triton', lambda: False)
    assert 'pip install triton' in refused('compile', CUDA)


def test_unknown_modes_are_told_the_names():
    with pytest.raises(UserError, match="unknown mode 'fast'; choose from "
                       'eager, fold'):
        check_mode('fast', CPU)
