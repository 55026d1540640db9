"""Does an exported detector find what the model finds?

Own work. Runs the file on pictures in each runtime that is installed, through
:mod:`vovnet.deploy.onnx.detector`, and the model through mmdet's own test pipeline
and ``predict``, and compares boxes, scores, labels and masks.
"""
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.registry import DATASETS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from ...datasets import draw_scene
from ...utils.errors import UserError, require_package
from ...utils.image_files import find_images
from ..onnx.detector import BACKENDS, Detections, Detector, fitted_size

BOXES = 0.1
"""Tolerance of a side of a box, px of the picture."""
SCORES = 1e-4
"""Tolerance of a score; of a map, as a share of its largest value or of 1."""
IOU = 1e-3
"""Two boxes whose overlap is as near to NMS's threshold may go either way."""
MASKS = 0.98
"""Least IoU of two masks."""
MAP = 1e-3
"""Tolerance of the mAP on the test data."""
TOLERANCES = f'{BOXES} px, {SCORES} of a score, masks that overlap by {MASKS}'


class Difference(NamedTuple):
    """How far a runtime is from the model.

    Attributes:
        backend (str): The runtime.
        pictures (int): Number of pictures.
        found (int): Detections of the model on all of them; of maps, maps.
        boxes (float): Largest difference of a box's side, px of the picture.
        scores (float): Largest difference of a score; of maps, of a map's
            value, as a share of its largest (of 1 if that is smaller).
        masks (float): Least IoU of two masks, 1 without masks.
        edges (int): Detections of one side alone that stood on an edge: at
            the threshold of the scores or of NMS, or at the last place.
        wrong (int): Detections of one side alone that did not.
        maps (bool): Whether maps were compared, not detections.
    """

    backend: str
    pictures: int
    found: int
    boxes: float
    scores: float
    masks: float
    edges: int
    wrong: int
    maps: bool = False

    def __str__(self) -> str:
        start = f'{self.backend}: {self.pictures} pictures, {self.found} '
        if self.maps:
            return (f'{start}maps, which differ by {self.scores:.2g} of their '
                    'largest values')
        masks = f', masks overlap by {self.masks:.4f}' * (self.masks < 1)
        return (f'{start}detections, boxes differ by {self.boxes:.2g} px, '
                f'scores by {self.scores:.2g}{masks}; {self.edges} at an '
                f'edge, {self.wrong} on one side alone')

    @property
    def within(self) -> bool:
        """Whether it is within the tolerances."""
        return (self.boxes <= BOXES and self.scores <= SCORES
                and self.masks >= MASKS and not self.wrong)


def verify(model: nn.Module, cfg: Config, file: Path,
           images: Sequence[np.ndarray],
           backends: Sequence[str] | None = None) -> list[Difference]:
    """Compare a file with the model it was made of.

    Args:
        model: In eval mode, with the weights; on the CPU.
        cfg: Its config, for the test pipeline.
        file: The first graph's file.
        images: Pictures, BGR, uint8.
        backends: Runtimes; by default those that are installed.

    Returns:
        list[Difference]: One for each runtime.

    Raises:
        UserError: If a runtime differs by more than the tolerances, or there
            is nothing to compare: no ONNX Runtime, or no detections.
    """
    require_package(BACKENDS[0], 'the check after an export')
    backends = backends or _installed()
    differences = []
    for backend in backends:
        detector = Detector(file, backend=backend)
        maps = detector.metadata['kind'] == 'maps'
        results = [(_compare_maps if maps else _compare_detections)(
            model, cfg, detector, image) for image in images]
        found, boxes, scores, masks, edges, wrong = zip(*results)
        differences.append(Difference(
            backend, len(images), sum(found), max(boxes), max(scores),
            min(masks), sum(edges), sum(wrong), maps))
    for difference in differences:
        if not difference.within:
            raise UserError(f'{file.name}: is not equal to the model, and not '
                            f'written: {difference}')
    if not differences[0].found:
        raise UserError(f'the model finds nothing on {len(images)} pictures, '
                        'so that nothing was compared; give pictures with '
                        'objects (--images)')
    return differences


def pictures(cfg: Config, places: Sequence[str] = (),
             count: int = 8) -> tuple[list[np.ndarray], str]:
    """Pictures to compare on.

    Args:
        cfg: Of the detector, for its test data.
        places: Images, folders or patterns; by default the first images of
            the test data or, where they are not there, generated shapes.
        count: Number of pictures at most.

    Returns:
        tuple: Pictures, BGR, uint8, and where they are from.

    Raises:
        UserError: If the places have none, or one cannot be read.
    """
    if places:
        files = [f for place in places for f in find_images(place)[1]]
        source = ', '.join(places)
    else:
        files, source = _test_images(cfg), 'the test data'
    if not files:
        scenes = (draw_scene('val', i, size=320) for i in range(count))
        # Of several proportions, as photographs are.
        return ([scene.image[:320 - 16 * i] if i % 2 else
                 scene.image[:, :320 - 16 * i]
                 for i, scene in enumerate(scenes)],
                'generated shapes (no test data there)')
    images = [cv2.imread(str(file)) for file in files[:count]]
    for image, file in zip(images, files):
        if image is None:
            raise UserError(f'{file}: cannot be read as an image; give others '
                            'with --images')
    return images, source


def _test_images(cfg: Config) -> list[str]:
    """Paths of the test images, none if the data are not there."""
    try:
        with redirect_stdout(StringIO()):  # pycocotools tells of its progress
            data = DATASETS.build(cfg.test_dataloader.dataset)
        return [data.get_data_info(i)['img_path'] for i in range(
            min(len(data), 100))]
    except (OSError, UserError):
        return []


def accuracies(model: nn.Module, cfg: Config, file: Path
               ) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure model and file on the test data, by the config's own metric.

    Args:
        model: The detector.
        cfg: Its config.
        file: What it was exported to.

    Yields:
        tuple: ``'model'`` and then each runtime that is installed, and the
        metrics by name.

    Raises:
        UserError: If a runtime's mAP is another than the model's.
    """
    expected = _accuracy(model, cfg, file, None)
    yield 'model', expected
    for backend in _installed():
        found = _accuracy(model, cfg, file, backend)
        yield backend, found
        for name, value in found.items():
            near = abs(value - expected[name]) <= MAP  # not if it is NaN
            if name.endswith('mAP') and not near:
                raise UserError(
                    f'{file.name}: is not equal to the model, and not '
                    f'written: {name} is {value:.4f} in {backend}, but '
                    f'{expected[name]:.4f} of the model')


def _accuracy(model: nn.Module, cfg: Config, file: str | Path,
              backend: str | None) -> dict[str, float]:
    detector = Detector(file, backend=backend or BACKENDS[0])
    with redirect_stdout(StringIO()):
        data = DATASETS.build(cfg.test_dataloader.dataset)
        evaluator = Evaluator(cfg.test_evaluator)
        evaluator.dataset_meta = data.metainfo
        for item in data:
            sample = item['data_samples']
            image = cv2.imread(sample.img_path)
            found = detector.detect(image) if backend else detect(
                model, cfg, image, detector.metadata)
            sample.pred_instances = InstanceData(**{
                key: torch.as_tensor(value) for key, value in zip(
                    ('bboxes', 'scores', 'labels', 'masks'), found)
                if value is not None})
            evaluator.process([sample])
        return evaluator.evaluate(len(data))


def _installed() -> list[str]:
    return [name for name in BACKENDS if find_spec(name)]


def eager(model: nn.Module, cfg: Config, image: np.ndarray,
          metadata: Mapping) -> tuple[Tensor, list]:
    """What the model's own way makes of a picture.

    Args:
        model: In eval mode.
        cfg: Its config, for the test pipeline.
        image: BGR, uint8.
        metadata: Of the exported file, for a ``shape`` that is fixed:
            pictures are padded to it, and made to fit.

    Returns:
        tuple: The network's input (1, 3, H, W), and the data sample of the
        picture in a list.
    """
    shape, fixed = metadata['shape'], metadata['preprocess']
    steps = [dict(type='mmdet.LoadImageFromNDArray')]
    for step in map(dict, get_test_pipeline_cfg(cfg)[1:]):
        if 'Annotations' in step['type']:
            continue
        if shape and step['type'].endswith('Resize'):
            size = fitted_size(image.shape[:2], fixed['resize'], shape)
            step.update(scale=size[::-1], keep_ratio=False)
        elif shape and step['type'].endswith('Pad') and step.get('size'):
            step.update(size=tuple(fixed['pad']['size']))
        steps.append(step)
    data = Compose(steps)(dict(img=image, img_id=0, img_path=''))
    data = model.data_preprocessor(pseudo_collate([data]))
    inputs = data['inputs']
    if shape:
        bottom, right = (n - m for n, m in zip(shape, inputs.shape[2:]))
        inputs = F.pad(inputs, (0, right, 0, bottom),
                       value=model.data_preprocessor.pad_value)
    return inputs, data['data_samples']


@torch.no_grad()
def detect(model: nn.Module, cfg: Config, image: np.ndarray,
           metadata: Mapping) -> Detections:
    """Detect with the model; arguments as of :func:`eager`."""
    inputs, samples = eager(model, cfg, image, metadata)
    found = model.predict(inputs, samples, rescale=True)[0].pred_instances
    return Detections(
        found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy(),
        found.masks.numpy() if 'masks' in found else None)


@torch.no_grad()
def _compare_maps(model: nn.Module, cfg: Config, detector: Detector,
                  image: np.ndarray) -> tuple:
    inputs, _ = eager(model, cfg, image, detector.metadata)
    expected = [x for levels in model.bbox_head(model.extract_feat(inputs))
                for x in levels]
    found = detector.run(detector.prepare(image)).values()
    error = max(np.abs(x - y.numpy()).max() / max(y.abs().max().item(), 1)
                for x, y in zip(found, expected, strict=True))
    return len(expected), 0., float(error), 1., 0, 0


def _compare_detections(model: nn.Module, cfg: Config, detector: Detector,
                        image: np.ndarray) -> tuple:
    expected = detect(model, cfg, image, detector.metadata)
    return compare(expected, detector.detect(image), detector.metadata['test'])


def compare(expected: Detections, found: Detections, test: dict) -> tuple:
    """Match detections one to one by label and overlap.

    Args:
        expected: The model's.
        found: The runtime's.
        test: ``score_thr``, ``nms`` and ``max_per_img`` of both.

    Returns:
        tuple: The last six fields of :class:`Difference`, for one picture.
    """
    overlap = np.asarray(box_iou(torch.as_tensor(expected.boxes),
                                 torch.as_tensor(found.boxes)))
    overlap[expected.labels[:, None] != found.labels] = -1
    pairs = []
    for i in range(len(expected.boxes)):
        if len(found.boxes) and overlap[i].max() > 0.9:
            j = int(overlap[i].argmax())
            pairs.append((i, j))
            overlap[:, j] = -1
    mine, theirs = (np.array(side, int) for side in zip(*pairs)) \
        if pairs else (np.zeros(0, int), ) * 2
    boxes = np.abs(expected.boxes[mine] - found.boxes[theirs]).max(initial=0)
    scores = np.abs(expected.scores[mine]
                    - found.scores[theirs]).max(initial=0)
    masks = 1.
    if expected.masks is not None and pairs:
        a, b = expected.masks[mine], found.masks[theirs]
        union = (a | b).sum((1, 2))
        masks = np.where(union, (a & b).sum((1, 2)) / union.clip(1), 1).min()
    edges = wrong = 0
    for side, matched in ((expected, mine), (found, theirs)):
        for i in set(range(len(side.boxes))) - set(matched.tolist()):
            edge = _on_edge(side, i, expected, found, test)
            edges, wrong = edges + edge, wrong + (not edge)
    return (len(expected.boxes), float(boxes), float(scores), float(masks),
            edges, wrong)


def _on_edge(side: Detections, i: int, expected: Detections,
             found: Detections, test: dict) -> bool:
    """Whether rounding decides if a detection is kept."""
    score = side.scores[i]
    if score <= test['score_thr'] + SCORES:
        return True
    if len(side.scores) >= test['max_per_img'] >= 0 and \
            score <= side.scores.min() + SCORES:
        return True
    for other in (expected, found):
        # What scores lower suppresses nothing.
        same = ((other.labels == side.labels[i])
                & (other.scores >= score - SCORES))
        overlap = np.asarray(box_iou(
            torch.as_tensor(side.boxes[i:i + 1]),
            torch.as_tensor(other.boxes[same])))
        if (np.abs(overlap - test['nms']['iou_threshold']) <= IOU).any():
            return True
    return False
