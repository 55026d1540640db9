"""The ways to run a network fast, by name, and what each needs.

Own work. What they gain is measured in ``docs/speed.md``.
"""
from importlib.util import find_spec
from typing import NamedTuple

import torch

from ...utils.errors import UserError


class Mode(NamedTuple):
    """A way to run a network.

    Attributes:
        what: In words, for tables.
        dtype: Of weights and activations, a name as ``--dtype`` has it.
        fold: Whether batch norms are folded and channels come last.
        compile: Whether ``torch.compile`` writes the kernels.
        graph: Whether torch's kernels are recorded in CUDA graphs.
        runtime: The package that runs it in torch's place; '' for torch.
    """
    what: str
    dtype: str = 'fp32'
    fold: bool = True
    compile: bool = False
    graph: bool = False
    runtime: str = ''


MODES = {
    'eager': Mode('as built', fold=False),
    'fold': Mode('batch norms folded, channels last, on a CPU ReLU fused '
                 'by oneDNN'),
    'graph': Mode('folded, channels last, replayed as CUDA graphs',
                  graph=True),
    'compile': Mode('folded, compiled by Inductor with frozen weights (on '
                    'CUDA with CUDA graphs)', compile=True),
    'bf16': Mode('folded, channels last, on a CPU ReLU fused by oneDNN',
                 'bf16'),
    'bf16-graph': Mode('folded, channels last, replayed as CUDA graphs',
                       'bf16', graph=True),
    'bf16-compile': Mode('folded, compiled by Inductor with frozen weights '
                         '(on CUDA with CUDA graphs)', 'bf16', compile=True),
    'fp16': Mode('folded, channels last', 'fp16'),
    'fp16-graph': Mode('folded, channels last, replayed as CUDA graphs',
                       'fp16', graph=True),
    'fp16-compile': Mode('folded, compiled by Inductor, CUDA graphs', 'fp16',
                         compile=True),
    'onnxruntime': Mode('folded, ONNX Runtime', runtime='onnxruntime'),
    'openvino': Mode('folded, OpenVINO', runtime='openvino'),
    'openvino-bf16': Mode('folded, OpenVINO', 'bf16', runtime='openvino'),
}


def find_obstacle(name: str, device: torch.device) -> str | None:
    """Why a mode cannot be used here.

    Args:
        name (str): A name of :data:`MODES`.
        device (torch.device): Where the network runs.

    Returns:
        str | None: What is missing, and what to do; None if nothing is.
    """
    mode = MODES[name]
    cuda = device.type == 'cuda'
    if mode.runtime:
        if cuda:
            return f'{mode.runtime} is run on the CPU here; use --device cpu'
        missing = [package for package in ('onnx', mode.runtime)
                   if find_spec(package) is None]
        if missing:
            return ('not installed; run `pip install '
                    f'{" ".join(missing)}`')
    if mode.dtype == 'fp16' and not cuda:
        return 'needs a GPU; use bf16 on a CPU'
    if mode.graph and not cuda:
        return 'CUDA graphs need a GPU; use fold or bf16 on a CPU'
    if mode.dtype == 'bf16' and not (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if cuda else _cpu_has_bf16()):
        return ('this processor has no bf16 instructions and would only '
                'imitate them; use fold or compile')
    return _no_compiler(cuda) if mode.compile else None


def _cpu_has_bf16() -> bool:
    found = torch.cpu.get_capabilities()
    return any(found.get(name) for name in (
        'avx512_bf16', 'amx_bf16', 'bf16'))  # the last on Arm


def _no_compiler(cuda: bool) -> str | None:
    """What torch.compile lacks."""
    # Imported where it is used: it takes a second.
    from torch._inductor import cpp_builder, exc
    from torch.utils._triton import has_triton
    if cuda and not has_triton():
        return 'torch.compile needs Triton; run `pip install triton`'
    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError):
        return ('torch.compile needs a C++ compiler and finds none; install '
                'g++, or name one in the environment variable CXX')
    return None


def check_mode(name: str, device: torch.device) -> Mode:
    """Look a mode up.

    Args:
        name (str): A name of :data:`MODES`.
        device (torch.device): Where the network runs.

    Returns:
        Mode: What it is.

    Raises:
        UserError: If there is no such mode, or it cannot be used here.
    """
    if name not in MODES:
        raise UserError(f'mode {name}: is none of {", ".join(MODES)}')
    if reason := find_obstacle(name, device):
        raise UserError(f'mode {name}: {reason}')
    return MODES[name]


def valid_modes(device: torch.device) -> dict[str, str | None]:
    """What can be used on this machine.

    Args:
        device (torch.device): Where the network runs.

    Returns:
        dict[str, str | None]: For each of :data:`MODES`, its
        :func:`find_obstacle`.
    """
    return {name: find_obstacle(name, device) for name in MODES}
