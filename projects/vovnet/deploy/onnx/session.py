"""One exported graph in ONNX Runtime or OpenVINO, and what passes through."""
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...utils.errors import UserError, require_package

KEY = 'vovnet'
"""Name of the metadata entry in the first file."""
BACKENDS = ('onnxruntime', 'openvino')


class PreprocessedImage(NamedTuple):
    """An image ready for the network.

    Attributes:
        image: (1, 3, H, W), float32; for a graph that normalizes,
            (1, H, W, 3), uint8.
        size: Height and width without the last padding, px.
        scale: Factors that width and height were multiplied by.
        original: Height and width before resizing, px.
    """

    image: np.ndarray
    size: tuple[int, int]
    scale: tuple[float, float]
    original: tuple[int, int]


class Detections(NamedTuple):
    """The objects in one image, best first.

    Attributes:
        boxes: x1, y1, x2, y2 in px of the original image, (n, 4), float32.
        scores: (n, ), float32.
        labels: Class indices, (n, ), int64.
        masks: (n, height, width), bool; None if the detector has no masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None

    def select_above(self, score_thr: float) -> 'Detections':
        """Return the detections that score at least ``score_thr``."""
        keep = self.scores >= score_thr
        return Detections(*(x if x is None else x[keep] for x in self))


class Session:
    """One graph in a runtime.

    Args:
        file: An ONNX file.
        backend: One of ``BACKENDS``.
        providers: ONNX Runtime's execution providers, best first.
        threads: Number of threads; the runtime decides by default.

    Attributes:
        metadata (str | None): The file's metadata entry ``KEY``.

    Raises:
        UserError: If the file cannot be run, or the runtime or a provider is
            not installed.
    """

    def __init__(self, file: Path, backend: str = BACKENDS[0],
                 providers: Sequence | None = None,
                 threads: int | None = None) -> None:
        if backend not in BACKENDS:
            raise UserError(f'unknown backend {backend!r}; choose from '
                            f'{", ".join(BACKENDS)}')
        require_package(backend, f'running {file.name}')
        if threads is not None and threads < 1:
            raise UserError(f'threads {threads}: must be at least 1')
        if not file.is_file():
            raise UserError(f'{file}: no such file; check the path')
        try:
            getattr(self, f'_open_{backend}')(str(file), providers, threads)
        except UserError:
            raise
        except Exception as error:  # each runtime has its own error classes
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f'{file.name}: {backend} cannot run it ({reason}); export it '
                'again, or for another --shape') from error

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph; inputs that it lacks are ignored.

        Returns:
            Outputs by name, in the graph's order.
        """
        outputs = self._run({name: inputs[name] for name in self._inputs})
        return dict(zip(self._outputs, outputs))

    def _open_onnxruntime(self, file: str, providers: Sequence | None,
                          threads: int | None) -> None:
        import onnxruntime
        providers = providers or ['CPUExecutionProvider']
        available = onnxruntime.get_available_providers()
        for provider in providers:
            name = provider if isinstance(provider, str) else provider[0]
            if name not in available:  # ONNX Runtime would silently skip it
                raise UserError(
                    f'provider {name}: this onnxruntime only has '
                    f'{", ".join(available)}; pip install the package that '
                    'has it, such as onnxruntime-gpu')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(
            file, options, list(providers))
        self._inputs = [value.name for value in session.get_inputs()]
        self._outputs = [value.name for value in session.get_outputs()]
        self.metadata = session.get_modelmeta().custom_metadata_map.get(KEY)
        self._run = lambda inputs: session.run(self._outputs, inputs)

    def _open_openvino(self, file: str, providers: Sequence | None,
                       threads: int | None) -> None:
        import openvino
        if providers:
            raise UserError(
                f'providers {", ".join(map(str, providers))}: only ONNX '
                'Runtime has providers; leave them out')
        core = openvino.Core()
        model = core.read_model(file)
        place = ['framework', KEY]
        self.metadata = (model.get_rt_info(place).astype(str)
                         if model.has_rt_info(place) else None)
        # By default OpenVINO rounds to bfloat16 where the CPU has it.
        hints = {'INFERENCE_PRECISION_HINT': 'f32'}
        if threads:
            hints['INFERENCE_NUM_THREADS'] = threads
        compiled = core.compile_model(model, 'CPU', hints)
        self._inputs = [port.any_name for port in compiled.inputs]
        # Compiling may rename outputs.
        self._outputs = [port.any_name for port in model.outputs]
        self._run = lambda inputs: compiled(inputs).to_tuple()
