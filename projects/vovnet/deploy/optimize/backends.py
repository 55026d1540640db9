"""Networks run by ONNX Runtime and OpenVINO, for measurements.

Exports all layers, without decoding and NMS. To deploy a detector, export it
with ``tools/deployment/export_onnx.py``.
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
from .modes import check_mode

Runtime = Callable[[Tensor], list[Tensor]]


class _FlatNetwork(nn.Module):
    """Network that returns a tuple of tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree_leaves(run_network(self.network, images)))


def load_runtime(mode: str, network: nn.Module,
                 images: Sequence[Tensor]) -> Runtime:
    """Load a network into another runtime.

    The runtime gets as many threads as torch has and one graph for each
    shape, because runtimes are fastest with fixed shapes.

    Args:
        mode: Key of :data:`~vovnet.deploy.optimize.modes.MODES` that has a
            ``runtime``.
        network: Network in eval mode, on the CPU; stays unchanged.
        images: (N, C, H, W) batches, at least one of each shape to be run.

    Returns:
        Function from images of these shapes to the network's output tensors
        in their order. The next call may overwrite them.

    Raises:
        UserError: If the mode cannot be used here or the network cannot be
            exported.
    """
    settings = check_mode(mode, images[0].device)
    if get_max_proposals(network):
        raise UserError(
            f'mode {mode}: {type(network).__name__} pools a dynamic number of '
            'proposals, which a graph of fixed shapes cannot do; measure '
            '--part backbone')
    load = dict(onnxruntime=_load_onnxruntime,
                openvino=_load_openvino)[settings.runtime]
    network = copy.deepcopy(network)
    fold_norms(network, lambda: run_network(network, images[0]))
    loaded = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'network.onnx')
        for batch in images:
            if batch.shape not in loaded:
                _export(network, batch, file, mode)
                loaded[batch.shape] = load(file, settings.dtype)
    return lambda batch: loaded[batch.shape](batch)


def _export(network: nn.Module, batch: Tensor, file: Path,
            mode: str) -> None:
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')  # about tracing and its age
            torch.onnx.export(
                _FlatNetwork(network), (batch, ), file, dynamo=False,
                opset_version=17, input_names=['images'])
    except Exception as error:  # torch raises all kinds of errors
        reason = (str(error).strip() or type(error).__name__).split('\n')[0]
        raise UserError(
            f'mode {mode}: {type(network).__name__} cannot be exported '
            f'({reason}); leave the mode out') from error


def _load_onnxruntime(file: Path, dtype: str) -> Runtime:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        file, options, providers=['CPUExecutionProvider'])
    return lambda batch: [*map(torch.from_numpy, session.run(
        None, {'images': batch.numpy()}))]


def _load_openvino(file: Path, dtype: str) -> Runtime:
    import openvino
    core = openvino.Core()
    model = core.compile_model(core.read_model(file), 'CPU', {
        'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_NUM_THREADS': torch.get_num_threads(),
        # By default, OpenVINO takes bf16 where the processor has it.
        'INFERENCE_PRECISION_HINT': dict(fp32='f32').get(dtype, dtype)})
    request = model.create_infer_request()
    return lambda batch: [*map(torch.from_numpy, request.infer(
        [batch.numpy()], share_inputs=True, share_outputs=True).values())]
