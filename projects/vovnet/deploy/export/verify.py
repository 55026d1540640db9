"""Compare an exported detector with the model it was made from."""
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

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
from ...utils.errors import UserError
from ...utils.image_files import find_images
from ..onnx.detector import Detector, fit_size
from ..onnx.session import BACKENDS, Detections

BOXES = 0.1
"""Tolerance of a side of a box, px of the image."""
SCORES = 1e-4
"""Tolerance of a score; of a map, as a share of its largest value or of 1."""
IOU = 1e-3
"""Two boxes whose IoU is this near to NMS's threshold may go either way."""
MASKS = 0.98
"""Least IoU of two masks."""
MAP = 1e-3
"""Tolerance of the mAP on the test data."""
TOLERANCES = f'{BOXES} px, {SCORES} of a score, masks that overlap by {MASKS}'


@dataclass
class Difference:
    """The difference between a runtime and the model on several images.

    Attributes:
        backend: The runtime.
        maps: Whether maps are compared, not detections.
        pictures: Number of images.
        found: Number of the model's detections, or of maps.
        boxes: Largest difference of a box's side, px of the image.
        scores: Largest difference of a score; of a map, as a share of its
            largest value (of 1 if that is smaller).
        masks: Least IoU of two masks, 1 without masks.
        edges: Detections of one side alone that rounding can explain: they
            are at the threshold of scores or NMS, or in the last place.
        wrong: Detections of one side alone that it cannot explain.
    """

    backend: str
    maps: bool = False
    pictures: int = 0
    found: int = 0
    boxes: float = 0.
    scores: float = 0.
    masks: float = 1.
    edges: int = 0
    wrong: int = 0

    def __str__(self) -> str:
        start = f'{self.backend}: {self.pictures} pictures, {self.found} '
        if self.maps:
            return (f'{start}maps, which differ by {self.scores:.2g} of their '
                    'largest values')
        masks = f', masks overlap by {self.masks:.4f}' * (self.masks < 1)
        return (f'{start}detections, boxes differ by {self.boxes:.2g} px, '
                f'scores by {self.scores:.2g}{masks}; {self.edges} at an '
                f'edge, {self.wrong} on one side alone')

    def is_tolerable(self) -> bool:
        """Tell whether it is within the tolerances; NaN never is."""
        return bool(self.boxes <= BOXES and self.scores <= SCORES
                    and self.masks >= MASKS and not self.wrong)

    def add_maps(self, expected: Sequence[np.ndarray],
                 found: Sequence[np.ndarray]) -> None:
        """Add the maps of one image."""
        self.pictures += 1
        self.found += len(expected)
        for x, y in zip(expected, found, strict=True):
            error = np.abs(x - y) / max(np.abs(x).max(), 1)
            self.scores = error.max(initial=self.scores)

    def add_detections(self, expected: Detections, found: Detections,
                       test: Mapping) -> None:
        """Add one image, matching detections by label and overlap.

        ``test`` has the model's ``score_thr``, ``nms`` and ``max_per_img``.
        """
        self.pictures += 1
        self.found += len(expected.boxes)
        overlap = compute_iou(expected.boxes, found.boxes)
        overlap[expected.labels[:, None] != found.labels] = -1
        pairs = []
        for i, row in enumerate(overlap):
            if row.max(initial=-1) > 0.9:
                j = row.argmax()
                pairs.append((i, j))
                overlap[:, j] = -1  # each matches once
        mine, theirs = np.array(pairs, int).reshape(-1, 2).T
        # NaN passes through max, and is in no tolerance.
        self.boxes = np.abs(expected.boxes[mine] - found.boxes[theirs]).max(
            initial=self.boxes)
        self.scores = np.abs(expected.scores[mine] - found.scores[theirs]).max(
            initial=self.scores)
        if expected.masks is not None:
            a, b = expected.masks[mine], found.masks[theirs]
            union = (a | b).sum((1, 2))
            iou = np.where(union, (a & b).sum((1, 2)) / union.clip(1), 1)
            self.masks = iou.min(initial=self.masks)
        for side, other, matched in ((expected, found, mine),
                                     (found, expected, theirs)):
            explained = np.delete(find_edges(side, other, test), matched)
            self.edges += int(explained.sum())
            self.wrong += int((~explained).sum())


def find_edges(side: Detections, other: Detections,
               test: Mapping) -> np.ndarray:
    """Find detections that rounding may keep or drop, (n, ), bool.

    ``other`` is what the other side found in the same image.
    """
    scores = side.scores
    edge = scores <= test['score_thr'] + SCORES
    if len(scores) >= test['max_per_img'] >= 0:
        edge |= scores <= scores.min(initial=1) + SCORES
    for rivals in (side, other):
        overlap = compute_iou(side.boxes, rivals.boxes)
        near = np.abs(overlap - test['nms']['iou_threshold']) <= IOU
        # A rival with a lower score suppresses nothing.
        can_suppress = ((rivals.labels == side.labels[:, None])
                        & (rivals.scores >= scores[:, None] - SCORES))
        edge |= (near & can_suppress).any(1)
    return edge


def compute_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of each of the boxes (n, 4) with each other (m, 4)."""
    return box_iou(torch.as_tensor(boxes), torch.as_tensor(others)).numpy()


def verify_detector(model: nn.Module, cfg: Config, file: Path,
                    images: Sequence[np.ndarray]) -> list[Difference]:
    """Compare a file with the model in each runtime that is installed.

    The model is in eval mode and on the CPU; images are BGR, uint8.

    Raises:
        UserError: If a difference is too large, nothing was detected, or ONNX
            Runtime is not installed.
    """
    detectors = _open_detectors(file)
    metadata = detectors[BACKENDS[0]].metadata
    maps = metadata['kind'] == 'maps'
    differences = [Difference(backend, maps) for backend in detectors]
    run_model = compute_maps_with_model if maps else detect_with_model
    for image in images:
        expected = run_model(model, cfg, image, metadata)
        for detector, difference in zip(detectors.values(), differences):
            if maps:
                difference.add_maps(expected, [
                    *detector.run(detector.preprocess(image)).values()])
            else:
                difference.add_detections(
                    expected, detector.detect(image), metadata['test'])
    for difference in differences:
        if not difference.is_tolerable():
            raise UserError(f'{file.name}: differs from the model, and was '
                            f'not written: {difference}')
    if not differences[0].found:
        raise UserError(f'the model finds nothing on {len(images)} pictures, '
                        'so that nothing was compared; give pictures with '
                        'objects (--images)')
    return differences


def measure_accuracies(model: nn.Module, cfg: Config, file: Path
                       ) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure model and file on the test data by the config's own metric.

    Yields:
        ``'model'``, then each runtime that is installed, and its metrics.

    Raises:
        UserError: If a runtime's mAP differs from the model's.
    """
    detectors = _open_detectors(file)
    metadata = detectors[BACKENDS[0]].metadata
    expected = _evaluate(
        cfg, lambda image: detect_with_model(model, cfg, image, metadata))
    yield 'model', expected
    for backend, detector in detectors.items():
        found = _evaluate(cfg, detector.detect)
        yield backend, found
        for name, value in found.items():
            near = abs(value - expected[name]) <= MAP  # False for NaN
            if name.endswith('mAP') and not near:
                raise UserError(
                    f'{file.name}: differs from the model, and was not '
                    f'written: {name} is {value:.4f} in {backend}, but '
                    f'{expected[name]:.4f} of the model')


def _evaluate(cfg: Config, detect_image: Callable[[np.ndarray], Detections]
              ) -> dict[str, float]:
    with redirect_stdout(StringIO()):  # pycocotools prints its progress
        data = DATASETS.build(cfg.test_dataloader.dataset)
        evaluator = Evaluator(cfg.test_evaluator)
        evaluator.dataset_meta = data.metainfo
        for item in data:
            sample = item['data_samples']
            found = detect_image(cv2.imread(sample.img_path))
            sample.pred_instances = InstanceData(**{
                key: torch.as_tensor(value) for key, value in zip(
                    ('bboxes', 'scores', 'labels', 'masks'), found)
                if value is not None})
            evaluator.process([sample])
        return evaluator.evaluate(len(data))


def _open_detectors(file: Path) -> dict[str, Detector]:
    """Open a file in ONNX Runtime and in what else is installed."""
    return {backend: Detector(file, backend=backend) for backend in BACKENDS
            if backend == BACKENDS[0] or find_spec(backend)}


@torch.no_grad()
def detect_with_model(model: nn.Module, cfg: Config, image: np.ndarray,
                      metadata: Mapping) -> Detections:
    """Detect; arguments as of :func:`preprocess_with_model`."""
    inputs, samples = preprocess_with_model(model, cfg, image, metadata)
    found = model.predict(inputs, samples, rescale=True)[0].pred_instances
    return Detections(
        found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy(),
        found.masks.numpy() if 'masks' in found else None)


@torch.no_grad()
def compute_maps_with_model(model: nn.Module, cfg: Config, image: np.ndarray,
                            metadata: Mapping) -> list[np.ndarray]:
    """Compute maps; arguments as of :func:`preprocess_with_model`."""
    inputs, _ = preprocess_with_model(model, cfg, image, metadata)
    return [x.numpy() for levels in model.bbox_head(model.extract_feat(inputs))
            for x in levels]


def preprocess_with_model(model: nn.Module, cfg: Config, image: np.ndarray,
                          metadata: Mapping) -> tuple[Tensor, list]:
    """Preprocess a BGR image of uint8 with the model's own test pipeline.

    If the exported file's metadata fix the ``shape``, the image is made to
    fit, and padded.

    Returns:
        The network's input (1, 3, H, W), and a list of one data sample.
    """
    shape, fixed = metadata['shape'], metadata['preprocess']
    steps = [dict(type='mmdet.LoadImageFromNDArray')]
    for step in map(dict, get_test_pipeline_cfg(cfg)[1:]):
        if 'Annotations' in step['type']:
            continue
        if shape and step['type'].endswith('Resize'):
            size = fit_size(image.shape[:2], fixed['resize'], shape)
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


def load_images(cfg: Config, places: Sequence[str] = (),
                count: int = 8) -> tuple[list[np.ndarray], str]:
    """Load images to compare on.

    Args:
        cfg: Config of the detector, for its test data.
        places: Images, folders or patterns; by default the first images of the
            test data or, if there are none, generated shapes.
        count: Most images to load.

    Returns:
        Images, BGR, uint8, and a description of where they are from.
    """
    if places:
        files = [f for place in places for f in find_images(place)[1]]
        source = ', '.join(places)
    else:
        files, source = _find_test_images(cfg), 'the test data'
    if not files:
        scenes = [draw_scene('val', i, size=320).image for i in range(count)]
        # Of several proportions, as photographs are.
        return ([scene[:320 - 16 * i] if i % 2 else scene[:, :320 - 16 * i]
                 for i, scene in enumerate(scenes)],
                'generated shapes (no test data there)')
    images = [cv2.imread(str(file)) for file in files[:count]]
    for image, file in zip(images, files):
        if image is None:
            raise UserError(f'{file}: cannot be read as an image; give others '
                            'with --images')
    return images, source


def _find_test_images(cfg: Config) -> list[str]:
    """Return paths of test images, none if the data set is missing."""
    try:
        with redirect_stdout(StringIO()):  # pycocotools prints its progress
            data = DATASETS.build(cfg.test_dataloader.dataset)
        return [data.get_data_info(i)['img_path'] for i in range(
            min(len(data), 100))]
    except (OSError, UserError):
        return []
