"""Ways to run a network fast, by name, and what each of them needs."""
from importlib.util import find_spec
from typing import NamedTuple

import torch

from ...utils.errors import UserError


class Mode(NamedTuple):
    """Way to run a network.

    Attributes:
        description: Words for tables.
        dtype: Precision of weights and activations, as ``--dtype`` names it.
        fold: Fold batch norms and use channels-last order.
        compile: Compile the kernels with ``torch.compile``.
        graph: Record torch's kernels as CUDA graphs.
        runtime: Package that runs the network, or '' for torch.
    """
    description: str
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
    """Return why a mode cannot be used on a device and what to do, or None."""
    mode = MODES[name]
    cuda = device.type == 'cuda'
    if mode.runtime:
        if cuda:
            return f'{mode.runtime} runs on the CPU only; use --device cpu'
        missing = [package for package in ('onnx', mode.runtime)
                   if find_spec(package) is None]
        if missing:
            return f'not installed; run `pip install {" ".join(missing)}`'
    if mode.dtype == 'fp16' and not cuda:
        return 'needs a GPU; use bf16 on a CPU'
    if mode.graph and not cuda:
        return 'CUDA graphs need a GPU; use fold or bf16 on a CPU'
    if mode.dtype == 'bf16' and not _has_native_bf16(cuda):
        return ('this processor has no bf16 instructions and would only '
                'emulate them; use fold or compile')
    return _find_missing_compiler(cuda) if mode.compile else None


def _has_native_bf16(cuda: bool) -> bool:
    if cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in (
        'avx512_bf16', 'amx_bf16', 'bf16'))  # the last on Arm


def _find_missing_compiler(cuda: bool) -> str | None:
    """Return what torch.compile lacks, or None."""
    # Imported here because it takes a second.
    from torch._inductor import cpp_builder, exc
    from torch.utils._triton import has_triton
    if cuda and not has_triton():
        return 'torch.compile needs Triton; run `pip install triton`'
    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError):
        return ('torch.compile finds no C++ compiler; install g++, or name '
                'one in the environment variable CXX')
    return None


def check_mode(name: str, device: torch.device) -> Mode:
    """Return a mode, or raise a UserError if a device cannot use it."""
    if name not in MODES:
        raise UserError(f'unknown mode {name!r}; choose from '
                        f'{", ".join(MODES)}')
    if obstacle := find_obstacle(name, device):
        raise UserError(f'mode {name}: {obstacle}')
    return MODES[name]
