"""From a trained detector to ONNX files.

Own work on ``torch.onnx.export``; which exporter can do what was found by
running both (torch 2.11, onnx 1.23, onnxruntime 1.32). The files say in their
metadata all that a runtime must know (:mod:`vovnet.deploy.onnx.detector`).
"""
import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from torch import nn
from torch.export import Dim

from ...utils.errors import UserError, require_package
from ..onnx.detector import FORMAT, KEY, graph_file
from . import one_stage
from .graph import Graph

EXPORTERS = ('torchscript', 'dynamo')
OPSETS = {'torchscript': range(11, 21), 'dynamo': range(18, 24)}


def export_detector(
    model: nn.Module,
    cfg: Config,
    file: str | os.PathLike,
    *,
    exporter: str = 'torchscript',
    shape: tuple[int, int] | None = None,
    dynamic: bool | None = None,
    normalize: bool = False,
    maps: bool = False,
    opset: int | None = None,
    check: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write a detector as ONNX.

    Nothing is left in ``file``'s place unless all of it succeeds.

    Args:
        model: In eval mode, with ``dataset_meta``; on the CPU.
        cfg: Its config, for the test pipeline.
        file: The first graph's file, ``*.onnx``; further graphs lie beside
            it, as ``*.roi.onnx``.
        exporter: ``'torchscript'`` traces, ``'dynamo'`` captures
            (``torch.export``).
        shape: Height and width of the input, px; of the example that is
            traced, if ``dynamic``. By default the test pipeline's.
        dynamic: Whether height and width are free. By default
            :func:`is_free` decides where no ``shape`` is given.
        normalize: Give the graph BGR pictures of uint8, as OpenCV reads them.
        maps: The head's maps only: no decoding of boxes, no NMS.
        opset: Version of ONNX's operators; 17 (torchscript) or 18 (dynamo)
            by default.
        check: Called with the first file before it is put in place; whatever
            it raises ends the export.

    Returns:
        list[Path]: The files, the first graph's first.

    Raises:
        UserError: If the detector, the opset or the shape has no path, or a
            package is missing.
    """
    require_package('onnx', 'export')
    if exporter not in EXPORTERS:
        raise UserError(f'exporter {exporter!r}: is none; choose from '
                        f'{", ".join(EXPORTERS)}')
    if exporter == 'dynamo':
        require_package('onnxscript', 'the dynamo exporter')
    if opset is None:
        opset = 17 if exporter == 'torchscript' else 18
    if opset not in (allowed := OPSETS[exporter]):
        raise UserError(f'--opset {opset}: the {exporter} exporter has '
                        f'{allowed[0]} to {allowed[-1]}')
    file = Path(file)
    if file.suffix != '.onnx':
        raise UserError(f'{file}: end the name in .onnx')
    build = _builder(model)
    preprocess = preprocessing(model, cfg)
    if dynamic is None:
        dynamic = shape is None and is_free(preprocess)
    if shape and not dynamic:
        _fit(preprocess, shape)
    shape = _input_shape(preprocess, shape)
    graphs, extra = build(
        model, cfg, shape, dynamic=dynamic, normalize=normalize, maps=maps)
    metadata = dict(
        format=FORMAT,
        classes=list(model.dataset_meta['classes']),
        preprocess=preprocess,
        normalize=normalize,
        shape=None if dynamic else list(shape),
        graphs=[graph.name for graph in graphs],
        **extra)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
            prefix='.export', dir=file.parent) as folder:
        written = [
            _write(graph, graph_file(Path(folder, file.name), graph.name),
                   exporter, opset, preprocess['divisor'])
            for graph in graphs]
        _add_metadata(written[0], metadata)
        if check:
            check(written[0])
        files = [file.with_name(part.name) for part in written]
        for part, final in zip(written, files):
            os.replace(part, final)
    return files


def _builder(model: nn.Module) -> Callable:
    """The function that makes a detector's graphs."""
    if isinstance(model, TwoStageDetector):
        from . import two_stage
        return two_stage.build
    if isinstance(model, SingleStageDetector):
        return one_stage.build
    raise UserError(
        f'{type(model).__name__}: has no way to ONNX here; RetinaNet, FCOS, '
        'DSOD and SSD, RefineDet, Faster, Mask and Cascade R-CNN have one')


def preprocessing(model: nn.Module, cfg: Config) -> dict:
    """What the test pipeline and the data preprocessor do to a picture.

    Args:
        model: Its ``data_preprocessor`` is read.
        cfg: Its test pipeline is read.

    Returns:
        dict: ``resize`` (None, or ``scale`` as width and height,
        ``keep_ratio``, ``interpolation``, ``backend``), ``pad`` (None, or
        ``size`` as width and height, ``divisor``, ``value``), then ``mean``,
        ``std`` (None for no normalisation), ``rgb`` (channels are swapped),
        ``divisor`` and ``pad_value`` of the padding that comes last.

    Raises:
        UserError: If the pipeline has a step that the runtime does not know.
    """
    found = dict(resize=None, pad=None)
    for step in get_test_pipeline_cfg(cfg):
        kind = str(step['type']).rpartition('.')[-1]
        if kind.startswith(('Load', 'Pack')):
            continue
        if kind == 'Resize' and step.get('scale') and not any(found.values()):
            scale = step['scale']
            found['resize'] = dict(
                scale=[scale] * 2 if isinstance(scale, int) else list(scale),
                keep_ratio=step.get('keep_ratio', False),
                interpolation=step.get('interpolation', 'bilinear'),
                backend=step.get('backend') or 'cv2')
        elif kind == 'Pad' and not found['pad'] and not step.get(
                'pad_to_square'):
            value = step.get('pad_val', 0)
            value = value if isinstance(value, (int, float)) else \
                value.get('img', 0)
            found['pad'] = dict(
                size=step.get('size') and list(step['size']),
                divisor=step.get('size_divisor') or 1,
                value=value)
        else:
            raise UserError(
                f"config: the test pipeline's {kind} cannot be done without "
                'torch; the runtime knows Resize (with a scale) and Pad')
    last = model.data_preprocessor
    values = {name: getattr(last, name).flatten().tolist()
              if hasattr(last, name) else None for name in ('mean', 'std')}
    return dict(found, **values, rgb=last._channel_conversion,
                divisor=last.pad_size_divisor, pad_value=last.pad_value)


def is_free(preprocess: dict) -> bool:
    """Whether pictures of several sizes reach the network in a test.

    Args:
        preprocess: From :func:`preprocessing`.

    Returns:
        bool: True if their proportions are kept and they are padded to
        multiples of a number; without the latter the network is made for one
        size, as DSOD is.
    """
    resize = preprocess['resize']
    return (preprocess['divisor'] > 1 and not preprocess['pad']
            and (resize is None or resize['keep_ratio']))


def _input_shape(preprocess: dict,
                 shape: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the network's input, px."""
    divisor = preprocess['divisor']
    if shape is None:
        pad, resize = preprocess['pad'], preprocess['resize']
        width, height = (pad and pad['size'] or resize and resize['scale']
                         or (None, None))
        if height is None:
            raise UserError('config: its test pipeline sets no size; give '
                            '--shape')
        return tuple(-(-n // divisor) * divisor for n in (height, width))
    if min(shape) < 1 or any(n % divisor for n in shape):
        raise UserError(
            f'--shape {" ".join(map(str, shape))}: the detector takes '
            f'multiples of {divisor} (pad_size_divisor); round them up')
    return tuple(shape)


def _fit(preprocess: dict, shape: tuple[int, int]) -> None:
    """Have pictures made to a size of one's own, in place."""
    resize, pad = preprocess['resize'], preprocess['pad']
    if resize and not resize['keep_ratio']:
        resize['scale'] = list(shape[::-1])
    if pad and pad['size']:
        pad['size'] = list(shape[::-1])


def _write(graph: Graph, file: Path, exporter: str, opset: int,
           divisor: int) -> Path:
    """Export one graph and have onnx check it."""
    import onnx
    names = list(graph.inputs)
    options = dict(input_names=names, output_names=graph.outputs,
                   opset_version=opset)
    if exporter == 'torchscript':
        options.update(dynamo=False, dynamic_axes=graph.dynamic)
    else:
        # Sides that are known to be multiples of the strides need no
        # conditions, which torch.export cannot have.
        free = {name: {axis: Dim(size) * (divisor if name == 'image' else 1)
                       for axis, size in graph.dynamic[name].items()}
                for name in names if name in graph.dynamic}
        options.update(dynamo=True, external_data=False, verbose=False,
                       dynamic_shapes=tuple(map(free.get, names)))
    graph.module.eval()  # or the exporter leaves all of the model in training
    try:
        with torch.no_grad(), _silence():
            torch.onnx.export(graph.module, tuple(graph.inputs.values()),
                              str(file), **options)
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f'--exporter {exporter}: cannot write this network ({reason}); '
            'take the other exporter, or fix the --shape') from error
    onnx.checker.check_model(str(file), full_check=True)
    return file


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporters' remarks, of which there are hundreds, to us."""
    level = logging.root.manager.disable
    logging.disable()  # an error is raised besides
    try:
        with warnings.catch_warnings(), \
                contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)


def _add_metadata(file: Path, metadata: dict) -> None:
    import onnx
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, {KEY: json.dumps(metadata)})
    onnx.save(model, str(file))
