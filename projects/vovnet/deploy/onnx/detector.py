"""Detect with an exported detector, without torch.

Preprocessing equals mmcv 2.1.0's ``Resize`` and ``Pad`` and mmengine 0.10.7's
``ImgDataPreprocessor`` to the last bit.
"""
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from ...utils.errors import UserError, require_package
from . import two_stage_postprocess
from .session import BACKENDS, Detections, PreprocessedImage, Session

FORMAT = 1


class Detector:
    """An exported detector.

    Args:
        file: The first file of the export; the others must lie beside it.
        backend: ``'onnxruntime'`` or ``'openvino'``.
        providers: ONNX Runtime's execution providers, best first.
        threads: Number of threads; the runtime decides by default.

    Attributes:
        metadata (dict): The file's metadata.
        classes (list[str]): Class names.
        sessions (dict[str, Session]): The graphs by name, ``''`` the first.

    Raises:
        UserError: If a file is missing or is not an exported detector, or the
            runtime or a provider is not installed.
    """

    def __init__(self, file: str | os.PathLike, *,
                 backend: str = BACKENDS[0],
                 providers: Sequence | None = None,
                 threads: int | None = None) -> None:
        file = Path(file)
        options = dict(backend=backend, providers=providers, threads=threads)
        first = Session(file, **options)
        if first.metadata is None:
            whole = file.with_suffix('').with_suffix('.onnx')
            if whole != file and whole.is_file():
                raise UserError(f'{file}: is only a part of {whole.name}; '
                                'give that file')
            raise UserError(
                f'{file}: was not written by tools/deployment/export_onnx.py; '
                'export the detector with it')
        self.metadata = json.loads(first.metadata)
        if self.metadata['format'] > FORMAT:
            raise UserError(f'{file}: has a later format than this vovnet '
                            'can read; update vovnet')
        self.classes = self.metadata['classes']
        self.sessions = {'': first}
        for name in self.metadata['graphs'][1:]:
            part = graph_file(file, name)
            if not part.is_file():
                raise UserError(f'{file}: needs {part.name} beside it; copy '
                                'all files of the export')
            self.sessions[name] = Session(part, **options)

    def detect(self, image: np.ndarray) -> Detections:
        """Detect objects in one image, BGR, (height, width, 3), uint8."""
        kind = self.metadata['kind']
        if kind == 'maps':
            raise UserError('the file gives maps, not detections; export the '
                            'detector without --maps')
        image = self.preprocess(image)
        if kind.startswith('two_stage'):
            return two_stage_postprocess.detect(
                self.sessions, self.metadata, image)
        found = self.run(image)
        boxes = found['boxes'] * np.float32([1 / s for s in image.scale * 2])
        return Detections(boxes, found['scores'], found['labels'])

    def run(self, image: PreprocessedImage) -> dict[str, np.ndarray]:
        """Run the first graph; return its outputs by name."""
        return self.sessions[''](image=image.image,
                                 size=np.int64(image.size))

    def preprocess(self, image: np.ndarray) -> PreprocessedImage:
        """Resize, normalize and pad an image as the test pipeline does."""
        return preprocess(image, self.metadata)


def graph_file(first: Path, name: str) -> Path:
    """Return the file of a graph: ``a.onnx``, or ``a.roi.onnx``."""
    return first.with_suffix(f'.{name}.onnx') if name else first


def preprocess(image: np.ndarray, metadata: Mapping) -> PreprocessedImage:
    """Resize, normalize and pad as a file's metadata say."""
    pixels = getattr(image, 'shape', None)
    if not (pixels and len(pixels) == 3 and pixels[2] == 3
            and image.dtype == np.uint8):
        raise UserError('detect: takes BGR pixels of uint8, (height, width, '
                        '3), as cv2.imread gives them (None: no image); got '
                        f'{pixels or image}')
    steps, shape = metadata['preprocess'], metadata['shape']
    original = height, width = image.shape[:2]
    if resize := steps['resize']:
        image = _resize(image, fit_size(original, resize, shape),
                        resize['interpolation'], resize['backend'])
    scale = image.shape[1] / width, image.shape[0] / height
    if pad := steps['pad']:
        target = pad['size'] and pad['size'][::-1] or image.shape[:2]
        image = _pad(image, target, pad['divisor'], pad['value'])
    size = image.shape[:2]
    if metadata['normalize']:  # the graph normalizes and fills the padding
        image = _pad(image, shape or size, steps['divisor'], 0)
    else:
        image = image[..., ::-1] if steps['rgb'] else image
        image = image.astype(np.float32)
        if steps['mean']:
            image = ((image - np.float32(steps['mean']))
                     / np.float32(steps['std']))
        image = _pad(image, shape or size, steps['divisor'],
                     steps['pad_value']).transpose(2, 0, 1)
    return PreprocessedImage(
        np.ascontiguousarray(image[None]), size, scale, original)


def fit_size(original: tuple[int, int], resize: Mapping,
             shape: Sequence[int] | None) -> tuple[int, int]:
    """Return height and width of a resized image, px.

    A ``shape``, which is a graph's fixed input, shrinks what would not fit in.
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
        require_package('PIL', 'resizing as the config does', 'pillow')
        from PIL import Image
        return np.array(Image.fromarray(image).resize(
            size, getattr(Image.Resampling, interpolation.upper())))
    names = {'bilinear': 'linear', 'bicubic': 'cubic', 'lanczos': 'lanczos4'}
    return cv2.resize(image, size, interpolation=getattr(
        cv2, f'INTER_{names.get(interpolation, interpolation)}'.upper()))


def _pad(image: np.ndarray, size: Sequence[int], divisor: int,
         value: float | Sequence[float]) -> np.ndarray:
    """Pad at the bottom and on the right to multiples of ``divisor``."""
    height, width = (-(-n // divisor) * divisor for n in size)
    padded = np.full((height, width, 3), value, image.dtype)
    padded[:image.shape[0], :image.shape[1]] = image
    return padded
