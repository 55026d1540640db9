"""Ground truth beside detections, many images on one sheet.

mmdet's ``DetLocalVisualizer`` draws; images are enlarged before, because its
labels are illegible on small ones.
"""
import warnings
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.registry import TRANSFORMS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.structures import InstanceData
from torch import nn
from torchvision.ops import nms

TITLES = ('ground truth', 'detections')
_TITLE_HEIGHT = 28
_GAP = 8


def sample_evenly(length: int, count: int) -> list[int]:
    """Return ``min(length, count)`` indices below ``length``, evenly spread.

    The first is 0.
    """
    count = min(length, count)
    return [i * length // count for i in range(count)]


def draw_detection_sheet(model: nn.Module, dataset: BaseDataset,
                         indices: Sequence[int], score_thr: float = 0.3,
                         columns: int = 3, cell: int = 320,
                         with_masks: bool = False,
                         overlap_thr: float = 0.6) -> np.ndarray:
    """Draw images of a data set twice, as annotated and as detected.

    Args:
        model: A detector of mmdet, in eval mode.
        dataset: Its test data set.
        indices: Which images.
        score_thr: Detections below this score are left out.
        columns: Pairs of pictures in a row of the sheet.
        cell: Longest side of a picture on the sheet, px.
        with_masks: Draw masks too, where there are any.
        overlap_thr: Of detections with a larger IoU only the best is drawn:
            detectors with a sigmoid for each class often find several classes
            in one place, whose labels would hide each other.

    Returns:
        The sheet, (H, W, 3) uint8, RGB.
    """
    load = Compose([
        TRANSFORMS.build(dict(type='LoadImageFromFile')),
        TRANSFORMS.build(dict(type='LoadAnnotations', with_bbox=True,
                              with_mask=with_masks, box_type=None))])
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dataset.metainfo
    cells = []
    for index in indices:
        with torch.inference_mode():
            found = model.test_step(pseudo_collate([dataset[index]]))[0]
        found = found.pred_instances.cpu()
        found = found[nms(found.bboxes, found.scores, overlap_thr)]
        info = load(dataset.get_data_info(index))
        cells.append(_draw_pair(
            visualizer, info['img'][..., ::-1], _build_truth(info), found,
            score_thr, cell))
    return _arrange_pairs(cells, columns, cell)


def _build_truth(info: dict) -> InstanceData:
    """Return the annotations without crowds and difficult objects."""
    keep = ~info['gt_ignore_flags'].astype(bool)
    truth = InstanceData(
        bboxes=torch.as_tensor(info['gt_bboxes'][keep], dtype=torch.float32),
        labels=torch.as_tensor(info['gt_bboxes_labels'][keep]))
    if 'gt_masks' in info:
        truth.masks = torch.as_tensor(
            info['gt_masks'].to_ndarray()[keep], dtype=torch.bool)
    return truth


def _draw_pair(visualizer: DetLocalVisualizer, image: np.ndarray,
               truth: InstanceData, found: InstanceData, score_thr: float,
               cell: int) -> np.ndarray:
    """Draw two pictures of cell x cell px, side by side."""
    height, width = image.shape[:2]
    scale = cell / max(height, width)
    size = round(width * scale), round(height * scale)
    image = cv2.resize(
        image, size,
        interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    sample = DetDataSample(
        gt_instances=_resize(truth, scale, size),
        pred_instances=_resize(found, scale, size))
    with warnings.catch_warnings():
        # About boxes that touch the border.
        warnings.filterwarnings('ignore', message='.*out of bounds')
        visualizer.add_datasample('', image, sample, pred_score_thr=score_thr)
    canvas = np.full((cell, 2 * cell, 3), 255, np.uint8)
    for i, picture in enumerate(np.split(visualizer.get_image(), 2, axis=1)):
        canvas[:size[1], i * cell:i * cell + size[0]] = picture
    return canvas


def _resize(instances: InstanceData, scale: float,
            size: tuple[int, int]) -> InstanceData:
    """Return the instances on an image of another (width, height)."""
    out = InstanceData(
        bboxes=instances.bboxes * scale,
        **{k: v for k, v in instances.items() if k in ('labels', 'scores')})
    if 'masks' in instances:
        masks = [cv2.resize(mask.astype(np.uint8), size,
                            interpolation=cv2.INTER_NEAREST)
                 for mask in instances.masks.numpy()]
        out.masks = torch.as_tensor(
            np.array(masks).reshape(-1, size[1], size[0]), dtype=torch.bool)
    return out


def _arrange_pairs(cells: Sequence[np.ndarray], columns: int,
                   cell: int) -> np.ndarray:
    """Lay pairs out in rows under their titles."""
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    width = 2 * cell + _GAP
    sheet = np.full((_TITLE_HEIGHT + rows * (cell + _GAP), columns * width, 3),
                    255, np.uint8)
    for column in range(columns):
        for i, title in enumerate(TITLES):
            cv2.putText(sheet, title, (column * width + i * cell + 6, 20),
                        cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1,
                        cv2.LINE_AA)
    for i, pair in enumerate(cells):
        y = _TITLE_HEIGHT + i // columns * (cell + _GAP)
        x = i % columns * width
        sheet[y:y + cell, x:x + 2 * cell] = pair
    return sheet
