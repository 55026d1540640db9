"""ONNX Runtime and OpenVINO in torch's place, for measurements.

Own work on onnxruntime's and openvino's Python interfaces. What is exported
is what :func:`vovnet.utils.dummy_forward.run_network` runs: all layers, without
decoding and NMS; a detector to be deployed is exported by
``tools/deployment/export_onnx.py``.
"""
import copy
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...utils.dummy_forward import get_max_proposals, run_network
from ...utils.errors import UserError
from .folding import fold_norms
from .modes import MODES, check_mode

Runtime = Callable[[Tensor], list[Tensor]]


class _Maps(nn.Module):
    """A network whose outputs are tensors, not containers of them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """All layers."""
        return tuple(tree_leaves(run_network(self.network, images)))


def load_runtime(mode: str, network: nn.Module,
                 images: Sequence[Tensor]) -> Runtime:
    """Hand a network over to another runtime.

    It gets as many threads as torch has, and a graph for each shape: fixed
    shapes are what runtimes are fastest with.

    Args:
        mode (str): A name of :data:`vovnet.deploy.optimize.modes.MODES` that has a
            ``runtime``.
        network (nn.Module): In eval mode, on the CPU. It stays as it is.
        images (Sequence[Tensor]): (N, C, H, W), one of each shape at least.

    Returns:
        Runtime: Called with images of one of these shapes, gives the
        network's output tensors, in their order. The next call may overwrite
        them.

    Raises:
        UserError: If the runtime is not installed, or the network cannot be
            exported.
    """
    found = check_mode(mode, images[0].device)
    if get_max_proposals(network):
        raise UserError(f'mode {mode}: {type(network).__name__} works on '
                        'proposals, whose pooling is no ONNX operator; '
                        'measure --part backbone')
    load = dict(onnxruntime=_onnxruntime, openvino=_openvino)[found.runtime]
    network = copy.deepcopy(network)
    fold_norms(network, lambda: run_network(network, images[0]))
    network = _Maps(network)
    loaded = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'network.onnx')
        for batch in images:
            if batch.shape not in loaded:
                _export(network, batch, file, mode)
                loaded[batch.shape] = load(file, found.dtype)
    return lambda batch: loaded[batch.shape](batch)


def _export(network: nn.Module, batch: Tensor, file: Path,
            mode: str) -> None:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')  # of tracing and of its age
            torch.onnx.export(network, (batch, ), file, dynamo=False,
                              opset_version=17, input_names=['images'])
    except Exception as error:  # torch raises what it likes
        reason = (str(error).strip() or type(error).__name__).split('\n')[0]
        raise UserError(
            f'mode {mode}: {type(network.network).__name__} cannot be '
            f'exported ({reason}); leave the mode out') from error


def _onnxruntime(file: Path, dtype: str) -> Runtime:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        file, options, providers=['CPUExecutionProvider'])
    return lambda batch: [*map(torch.from_numpy, session.run(
        None, {'images': batch.numpy()}))]


def _openvino(file: Path, dtype: str) -> Runtime:
    import openvino
    core = openvino.Core()
    model = core.compile_model(core.read_model(file), 'CPU', {
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
        # OpenVINO's own choice would be bf16 where the processor has it.
        'INFERENCE_PRECISION_HINT': dict(fp32='f32').get(dtype, dtype)})
    request = model.create_infer_request()
    return lambda batch: [*map(torch.from_numpy, request.infer(
        [batch.numpy()], share_inputs=True, share_outputs=True).values())]


def runtimes() -> list[str]:
    """The modes that need :func:`load_runtime`."""
    return [name for name, mode in MODES.items() if mode.runtime]
