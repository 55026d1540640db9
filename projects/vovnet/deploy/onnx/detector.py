"""Detect with an exported detector, without torch.

Needs numpy, OpenCV and onnxruntime (or openvino), nothing else::

    from vovnet.deploy.onnx import Detector
    found = Detector('retinanet.onnx').detect(cv2.imread('street.jpg'))

Own work. What is done to a picture is what mmcv 2.1.0's transforms
(``transforms/processing.py``, ``image/geometric.py``) and mmengine 0.10.7's
``ImgDataPreprocessor`` do (read, not copied), to the last bit.
"""
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ...utils.errors import UserError, require_package

KEY = 'vovnet'
"""Of the metadata in the first file."""
FORMAT = 1
BACKENDS = ('onnxruntime', 'openvino')


class Detections(NamedTuple):
    """What was found in a picture, best first.

    Attributes:
        boxes (np.ndarray): x1, y1, x2, y2 in px of the picture, (n, 4),
            float32.
        scores (np.ndarray): (n, ), float32.
        labels (np.ndarray): Numbers of the classes, (n, ), int64.
        masks (np.ndarray | None): (n, height, width), bool; None if the
            detector has none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None

    def above(self, score_thr: float) -> 'Detections':
        """Those that score at least ``score_thr``."""
        keep = self.scores >= score_thr
        return Detections(*(x if x is None else x[keep] for x in self))


class Picture(NamedTuple):
    """A picture made ready for the network.

    Attributes:
        image (np.ndarray): (1, 3, H, W), float32; or, for a graph that
            normalises, (1, H, W, 3), uint8.
        size (tuple[int, int]): Height and width without the last padding.
        scale (tuple[float, float]): By which width and height were
            multiplied.
        original (tuple[int, int]): The picture's own height and width, px.
    """

    image: np.ndarray
    size: tuple[int, int]
    scale: tuple[float, float]
    original: tuple[int, int]


def graph_file(first: Path, name: str) -> Path:
    """The file of a graph: ``a.onnx``, or ``a.roi.onnx`` for ``'roi'``."""
    return first.with_suffix(f'.{name}.onnx') if name else first


class Session:
    """One graph in a runtime.

    Args:
        file: An ONNX file.
        backend: One of ``BACKENDS``.
        providers: ONNX Runtime's, best first; by default the CPU's.
        threads: Number of threads; the runtime's choice by default.

    Raises:
        UserError: If the file is missing or none that the runtime can run,
            or the runtime or a provider is not installed.

    Attributes:
        inputs (list[str]): Names.
        outputs (list[str]): Names.
        metadata (str | None): What the file has under ``KEY``.
    """

    def __init__(self, file: Path, backend: str = 'onnxruntime',
                 providers: Sequence | None = None,
                 threads: int | None = None) -> None:
        if backend not in BACKENDS:
            raise UserError(f'backend {backend!r}: is none; choose from '
                            f'{", ".join(BACKENDS)}')
        require_package(backend, f'running {file.name}')
        if threads is not None and threads < 1:
            raise UserError(f'threads {threads}: give 1 or more')
        if not file.is_file():
            raise UserError(f'{file}: no such file; check the path')
        try:
            getattr(self, f'_open_{backend}')(str(file), providers, threads)
        except UserError:
            raise
        except Exception as error:  # both have errors of their own
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f'{file.name}: {backend} cannot run it ({reason}); export it '
                'again, or for another --shape') from error

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph.

        Args:
            **inputs: Arrays by name.

        Returns:
            dict: Outputs by name, in the graph's order.
        """
        return dict(zip(self.outputs, self._run(inputs)))

    def _open_onnxruntime(self, file: str, providers: Sequence | None,
                          threads: int | None) -> None:
        import onnxruntime
        providers = providers or ['CPUExecutionProvider']
        there = onnxruntime.get_available_providers()
        for provider in providers:
            name = provider if isinstance(provider, str) else provider[0]
            if name not in there:  # ONNX Runtime would take another
                raise UserError(
                    f'provider {name}: is not in this onnxruntime, which has '
                    f'{", ".join(there)}; pip install the package that has '
                    'it, such as onnxruntime-gpu')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(
            file, options, list(providers))
        self.inputs = [value.name for value in session.get_inputs()]
        self.outputs = [value.name for value in session.get_outputs()]
        self.metadata = session.get_modelmeta().custom_metadata_map.get(KEY)
        self._run = lambda inputs: session.run(self.outputs, inputs)

    def _open_openvino(self, file: str, providers: Sequence | None,
                       threads: int | None) -> None:
        import openvino
        if providers:
            raise UserError(f'providers {", ".join(map(str, providers))}: are '
                            "ONNX Runtime's; openvino runs on the CPU here")
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
        self.inputs = [port.any_name for port in compiled.inputs]
        # It may rename what it compiles.
        self.outputs = [port.any_name for port in model.outputs]
        self._run = lambda inputs: compiled(inputs).to_tuple()


class Detector:
    """An exported detector.

    Args:
        file: Written by :func:`vovnet.deploy.export.export.export_detector`; its
            further graphs lie beside it.
        backend: ``'onnxruntime'`` or ``'openvino'``.
        providers: ONNX Runtime's, best first; by default the CPU's.
        threads: Number of threads; the runtime's choice by default.

    Attributes:
        metadata (dict): The document in the file.
        classes (list[str]): Names of the classes.
        sessions (dict[str, Session]): The graphs by name, ``''`` the first.

    Raises:
        UserError: If a file is missing or is not an exported detector, or
            the runtime or a provider is not installed.
    """

    def __init__(self, file: str | os.PathLike, *,
                 backend: str = 'onnxruntime',
                 providers: Sequence | None = None,
                 threads: int | None = None) -> None:
        file = Path(file)
        options = dict(backend=backend, providers=providers, threads=threads)
        first = Session(file, **options)
        if first.metadata is None:
            whole = file.with_suffix('').with_suffix('.onnx')
            if whole != file and whole.is_file():
                raise UserError(f'{file}: is a part of {whole.name}; name '
                                'that one')
            raise UserError(
                f'{file}: was not written by tools/deployment/export_onnx.py '
                '(it does not say what goes in and comes out); export the '
                'detector with it')
        self.metadata = json.loads(first.metadata)
        if self.metadata['format'] > FORMAT:
            raise UserError(f'{file}: is of a later format than this vovnet '
                            'knows; update it, or export the detector again')
        self.classes = self.metadata['classes']
        parts = {name: graph_file(file, name)
                 for name in self.metadata['graphs']}
        for part in parts.values():
            if not part.is_file():
                raise UserError(f'{file}: needs {part.name} beside it, which '
                                'is not there; copy all that was exported')
        self.sessions = {
            name: first if not name else
            Session(part, **options) for name, part in parts.items()}

    def detect(self, image: np.ndarray) -> Detections:
        """Detect in one picture.

        Args:
            image: BGR, (height, width, 3), uint8, as OpenCV reads it.

        Returns:
            Detections: In px of this picture.

        Raises:
            UserError: If the file gives maps only.
        """
        kind = self.metadata['kind']
        if kind == 'maps':
            raise UserError('the file gives maps, not detections; export the '
                            'detector without --maps')
        picture = self.prepare(image)
        if kind.startswith('two_stage'):
            from . import two_stage_postprocess as two_stage_numpy
            return Detections(*two_stage_numpy.run(
                self.sessions, self.metadata, picture))
        found = self.run(picture)
        boxes = found['boxes'] * np.float32([1 / s for s in picture.scale * 2])
        return Detections(boxes, found['scores'], found['labels'])

    def run(self, picture: Picture) -> dict[str, np.ndarray]:
        """Run the first graph.

        Args:
            picture: From :meth:`prepare`.

        Returns:
            dict: Its outputs by name; boxes in px of its input.
        """
        session = self.sessions['']
        given = dict(image=picture.image, size=np.int64(picture.size))
        return session(**{name: given[name] for name in session.inputs})

    def prepare(self, image: np.ndarray) -> Picture:
        """Resize, normalise and pad, as the test pipeline does.

        Args:
            image: BGR, (height, width, 3), uint8.

        Returns:
            Picture: What the first graph takes.

        Raises:
            UserError: If these are no such pixels.
        """
        shape = getattr(image, 'shape', None)
        if not (shape and len(shape) == 3 and shape[2] == 3
                and image.dtype == np.uint8):
            raise UserError('detect: takes BGR pixels of uint8, (height, '
                            'width, 3), as cv2.imread gives them '
                            f'(None: no image); got {shape or image}')
        return prepare(image, self.metadata)


def prepare(image: np.ndarray, metadata: Mapping) -> Picture:
    """See :meth:`Detector.prepare`."""
    steps, shape = metadata['preprocess'], metadata['shape']
    original = height, width = image.shape[:2]
    if resize := steps['resize']:
        image = _resize(image, fitted_size(original, resize, shape),
                        resize['interpolation'], resize['backend'])
    scale = image.shape[1] / width, image.shape[0] / height
    if pad := steps['pad']:
        target = pad['size'] and pad['size'][::-1] or image.shape[:2]
        image = _pad(image, target, pad['divisor'], pad['value'])
    size = image.shape[:2]
    if not metadata['normalize']:
        image = image[..., ::-1] if steps['rgb'] else image
        image = image.astype(np.float32)
        if steps['mean']:
            image = ((image - np.float32(steps['mean']))
                     / np.float32(steps['std']))
    image = _pad(image, shape or size, steps['divisor'],
                 0 if metadata['normalize'] else steps['pad_value'])
    if not metadata['normalize']:
        image = image.transpose(2, 0, 1)
    return Picture(np.ascontiguousarray(image[None]), size, scale, original)


def fitted_size(original: tuple[int, int], resize: Mapping,
                shape: Sequence[int] | None) -> tuple[int, int]:
    """Height and width of a resized picture.

    Args:
        original: Height and width, px.
        resize: ``scale`` (width and height) and ``keep_ratio``.
        shape: Of a graph that takes no other: the picture is made as large
            as fits, if it would not fit otherwise.

    Returns:
        tuple[int, int]: Height and width, px.
    """
    if not resize['keep_ratio']:
        return tuple(resize['scale'][::-1])
    factor = min(max(resize['scale']) / max(original),
                 min(resize['scale']) / min(original))
    if shape:
        factor = min(factor, *(n / m for n, m in zip(shape, original)))
    return tuple(int(n * factor + 0.5) for n in original)


def _resize(image: np.ndarray, size: tuple[int, int], interpolation: str,
            backend: str) -> np.ndarray:
    size = size[::-1]
    if backend == 'pillow':
        require_package('PIL', "resizing as the config does", 'pillow')
        from PIL import Image
        return np.array(Image.fromarray(image).resize(
            size, getattr(Image.Resampling, interpolation.upper())))
    names = {'bilinear': 'linear', 'bicubic': 'cubic', 'lanczos': 'lanczos4'}
    return cv2.resize(image, size, interpolation=getattr(
        cv2, f'INTER_{names.get(interpolation, interpolation)}'.upper()))


def _pad(image: np.ndarray, size: Sequence[int], divisor: int,
         value: float | Sequence[float]) -> np.ndarray:
    """Fill up at the bottom and on the right."""
    height, width = (-(-n // divisor) * divisor for n in size)
    padded = np.full((height, width, 3), value, image.dtype)
    padded[:image.shape[0], :image.shape[1]] = image
    return padded
