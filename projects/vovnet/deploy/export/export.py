"""Export a trained detector to ONNX, verify it, and then publish it."""
import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from torch import nn
from torch.export import Dim

from ...utils.errors import UserError, require_package
from ..onnx.detector import FORMAT, graph_file
from ..onnx.session import BACKENDS, KEY
from . import one_stage, two_stage
from .graph import Graph
from .verify import measure_accuracies, verify_detector

OPSETS = {'torchscript': range(11, 21), 'dynamo': range(18, 24)}
DEFAULT_OPSETS = {'torchscript': 17, 'dynamo': 18}


def export_detector(
    model: nn.Module,
    cfg: Config,
    file: str | os.PathLike,
    images: Sequence[np.ndarray],
    *,
    exporter: str = 'torchscript',
    opset: int | None = None,
    evaluate: bool = False,
    **options,
) -> list[Path]:
    """Write a detector as ONNX, verify the files, and only then publish them.

    Prints how near each runtime comes to the model. If anything fails,
    nothing is left, and an older file stays.

    Args:
        model: In eval mode, with ``dataset_meta``; on the CPU.
        cfg: Its config, for the test pipeline.
        file: The first graph's file, ``*.onnx``; further graphs lie beside it.
        images: What to compare model and file on, BGR, uint8.
        exporter: ``'torchscript'`` traces, ``'dynamo'`` captures.
        opset: Version of ONNX's operators; the exporter's default if None.
        evaluate: Also compare the accuracy on the test data.
        **options: As of :func:`build_graphs`.

    Raises:
        UserError: If the detector or an option has no path to ONNX, a
            package is missing, or the files differ from the model.
    """
    file = Path(file)
    opset = choose_opset(exporter, opset)
    if file.suffix != '.onnx':
        raise UserError(f'{file}: must end in .onnx; rename it')
    require_package('onnx', 'export')
    require_package(BACKENDS[0], 'the check after an export')
    graphs, metadata = build_graphs(model, cfg, **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
            prefix='.export', dir=file.parent) as folder:
        written = write_graphs(
            graphs, metadata, Path(folder, file.name), exporter, opset)
        for difference in verify_detector(model, cfg, written[0], images):
            print(f'  {difference}', flush=True)
        if evaluate:
            for name, metrics in measure_accuracies(model, cfg, written[0]):
                print(f'  {name}: ' + ', '.join(
                    f'{key} {value:.4f}' for key, value in metrics.items()),
                    flush=True)
        return [part.replace(file.with_name(part.name)) for part in written]


def choose_opset(exporter: str, opset: int | None = None) -> int:
    """Return the opset, by default the exporter's; check both."""
    if exporter not in OPSETS:
        raise UserError(f'unknown exporter {exporter!r}; choose from '
                        f'{", ".join(OPSETS)}')
    if exporter == 'dynamo':
        require_package('onnxscript', 'the dynamo exporter')
    if opset is None:
        return DEFAULT_OPSETS[exporter]
    allowed = OPSETS[exporter]
    if opset not in allowed:
        raise UserError(f'--opset {opset}: the {exporter} exporter has '
                        f'{allowed[0]} to {allowed[-1]}; choose one of them')
    return opset


def build_graphs(
    model: nn.Module,
    cfg: Config,
    *,
    shape: tuple[int, int] | None = None,
    dynamic: bool | None = None,
    normalize: bool = False,
    maps: bool = False,
) -> tuple[list[Graph], dict]:
    """Build the graphs of a detector, and their metadata.

    Args:
        model: In eval mode, with ``dataset_meta``; on the CPU.
        cfg: Its config, for the test pipeline.
        shape: Height and width of the input, px, or of an example if
            ``dynamic``; the test pipeline's by default.
        dynamic: Leave height and width free. By default, if no ``shape`` is
            given and :func:`allows_any_size`.
        normalize: Take BGR images of uint8, as OpenCV reads them.
        maps: Stop at the head's maps, without decoding and NMS.
    """
    if isinstance(model, TwoStageDetector):
        build = two_stage.build
    elif isinstance(model, SingleStageDetector):
        build = one_stage.build
    else:
        raise UserError(
            f'{type(model).__name__}: has no path to ONNX here; RetinaNet, '
            'FCOS, DSOD and SSD, RefineDet, Faster, Mask and Cascade R-CNN '
            'have one')
    preprocess = describe_preprocessing(model, cfg)
    if dynamic is None:
        dynamic = shape is None and allows_any_size(preprocess)
    if shape is None:
        shape = _get_shape(preprocess)
    else:
        _set_shape(preprocess, shape, dynamic)
    graphs, extra = build(
        model, shape, dynamic=dynamic, normalize=normalize, maps=maps)
    return graphs, dict(
        format=FORMAT,
        classes=list(model.dataset_meta['classes']),
        preprocess=preprocess,
        normalize=normalize,
        shape=None if dynamic else list(shape),
        graphs=[graph.name for graph in graphs],
        **extra)


def describe_preprocessing(model: nn.Module, cfg: Config) -> dict:
    """Describe what test pipeline and data preprocessor do to an image.

    Returns:
        ``resize`` (None, or ``scale`` as width and height, ``keep_ratio``,
        ``interpolation``, ``backend``), ``pad`` (None, or ``size`` as width
        and height, ``divisor``, ``value``), then ``mean``, ``std`` (None for
        no normalization), ``rgb`` (channels are swapped), ``divisor`` and
        ``pad_value`` of the padding that comes last.
    """
    steps = dict(resize=None, pad=None)
    for step in get_test_pipeline_cfg(cfg):
        kind = str(step['type']).rpartition('.')[-1]
        if kind.startswith(('Load', 'Pack')):
            continue
        if kind == 'Resize' and step.get('scale') and not any(steps.values()):
            scale = step['scale']
            steps['resize'] = dict(
                scale=[scale] * 2 if isinstance(scale, int) else list(scale),
                keep_ratio=step.get('keep_ratio', False),
                interpolation=step.get('interpolation', 'bilinear'),
                backend=step.get('backend') or 'cv2')
        elif kind == 'Pad' and not steps['pad'] and not step.get(
                'pad_to_square'):
            value = step.get('pad_val', 0)
            if not isinstance(value, (int, float)):
                value = value.get('img', 0)
            steps['pad'] = dict(
                size=step.get('size') and list(step['size']),
                divisor=step.get('size_divisor') or 1,
                value=value)
        else:
            raise UserError(
                f"config: the test pipeline's {kind} cannot be done without "
                'torch; use one Resize (with a scale), then Pad')
    last = model.data_preprocessor
    values = {name: getattr(last, name).flatten().tolist()
              if hasattr(last, name) else None for name in ('mean', 'std')}
    return dict(steps, **values, rgb=last._channel_conversion,
                divisor=last.pad_size_divisor, pad_value=last.pad_value)


def allows_any_size(preprocess: dict) -> bool:
    """Tell whether images of several sizes reach the network in a test.

    They do if their proportions are kept and they are padded to multiples of
    a number. Without the latter a network is made for one size, as DSOD is.
    """
    resize = preprocess['resize']
    return (preprocess['divisor'] > 1 and not preprocess['pad']
            and (resize is None or resize['keep_ratio']))


def _set_shape(preprocess: dict, shape: tuple[int, int],
               dynamic: bool) -> None:
    """Check a ``--shape``; if it is fixed, have images made to it."""
    divisor = preprocess['divisor']
    if min(shape) < 1 or any(n % divisor for n in shape):
        raise UserError(
            f'--shape {" ".join(map(str, shape))}: the detector takes '
            f'multiples of {divisor} (pad_size_divisor); round them up')
    resize, pad = preprocess['resize'], preprocess['pad']
    if resize and not resize['keep_ratio'] and not dynamic:
        resize['scale'] = list(shape[::-1])
    if pad and pad['size'] and not dynamic:
        pad['size'] = list(shape[::-1])


def _get_shape(preprocess: dict) -> tuple[int, int]:
    """Return height and width that the test pipeline pads to, px."""
    pad, resize = preprocess['pad'], preprocess['resize']
    if not (pad and pad['size'] or resize):
        raise UserError('config: its test pipeline sets no size; give '
                        '--shape')
    width, height = pad and pad['size'] or resize['scale']
    divisor = preprocess['divisor']
    return tuple(-(-n // divisor) * divisor for n in (height, width))


def write_graphs(graphs: Sequence[Graph], metadata: dict, file: Path,
                 exporter: str = 'torchscript', opset: int = 17
                 ) -> list[Path]:
    """Write graphs to ``file`` and beside it; return all files."""
    import onnx
    files = []
    for graph in graphs:
        part = graph_file(file, graph.name)
        _export(graph, part, exporter, opset,
                metadata['preprocess']['divisor'])
        onnx.checker.check_model(str(part), full_check=True)
        files.append(part)
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, {KEY: json.dumps(metadata)})
    onnx.save(model, str(file))
    return files


def _export(graph: Graph, file: Path, exporter: str, opset: int,
            divisor: int) -> None:
    options = dict(input_names=list(graph.inputs),
                   output_names=graph.outputs, opset_version=opset)
    if exporter == 'torchscript':
        options.update(dynamo=False, dynamic_axes=graph.dynamic)
    else:
        # Sides that are known to be multiples of the strides need no
        # conditions, which torch.export cannot have.
        free = {name: {axis: Dim(size) * (divisor if name == 'image' else 1)
                       for axis, size in graph.dynamic[name].items()}
                for name in graph.inputs if name in graph.dynamic}
        options.update(dynamo=True, external_data=False, verbose=False,
                       dynamic_shapes=tuple(map(free.get, graph.inputs)))
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


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Silence the exporters' hundreds of remarks; errors are raised anyway."""
    level = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), \
                contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)
