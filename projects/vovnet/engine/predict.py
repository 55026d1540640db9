"""Detect in image files, and write pictures and JSON files.

Unlike mmdet 3.3.0's ``DetInferencer``, results are named after an image's
path, and an image that cannot be read does not end the run.
"""
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.registry import DATASETS, VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from ..checkpoints import check_normalization, get_state_dict, load_strict
from ..utils.devices import find_device
from ..utils.errors import UserError
from ..utils.image_files import choose_output_files


def load_detector(cfg: Config, checkpoint: str,
                  device: str | None = None) -> nn.Module:
    """Build a detector with its weights, in eval mode.

    Its ``dataset_meta`` (class names, colors) is the checkpoint's or, where
    that has none, the config's.

    Args:
        cfg: A complete config.
        checkpoint: A file or a URL.
        device: Such as ``'cuda:0'``; by default a GPU if there is one.

    Raises:
        UserError: If the checkpoint is of another model or expects another
            normalization, or the device is missing.
    """
    if 'model' not in cfg:
        raise UserError(f'config {cfg.filename}: has no model; give the '
                        'config of a detector')
    where = find_device(
        device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if 'backbone' in cfg.model:
        cfg.model.backbone.init_cfg = None  # all weights are loaded below
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    loaded = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    name = f'checkpoint {checkpoint}'
    load_strict(model, get_state_dict(loaded, name), name)
    if cfg.get('check_images', True):
        check_normalization(model)
    data = cfg.test_dataloader.dataset
    meta = DATASETS.build({**data, 'lazy_init': True}).metainfo
    meta.update(loaded.get('meta', {}).get('dataset_meta', {}))
    model.dataset_meta = meta
    return model.to(where).eval()


def detect_files(model: nn.Module, cfg: Config, root: Path,
                 images: Sequence[Path], out_dir: Path,
                 score_thr: float = 0.3, batch_size: int = 1,
                 prepare: Callable[[nn.Module, dict], nn.Module] | None = None
                 ) -> Iterator[tuple[Path, int | None]]:
    """Detect in images, and write a picture and a JSON file for each.

    The JSON file holds ``image``, ``height``, ``width`` and ``instances``:
    those that score at least ``score_thr``, best first, each with ``label``
    (the number of the class), ``class``, ``score``, ``bbox`` (x1, y1, x2, y2
    in pixels of the image) and, where the detector has masks, ``mask`` (COCO's
    compressed RLE: ``size``, ``counts``).

    Args:
        model: From :func:`load_detector`.
        cfg: Its config, for the test pipeline.
        root: The folder that holds all images.
        images: The images.
        out_dir: The folder for ``vis/<image>`` and ``preds/<image>.json``.
        score_thr: The lowest score that is drawn and written.
        batch_size: Images in one step of the model.
        prepare: Called with the model and the first batch; returns the model
            to use.

    Yields:
        Each image and its number of detections, None if the image could not
        be read or is too narrow to be resized.
    """
    outputs = choose_output_files(root, images, out_dir)
    steps = [dict(step) for step in get_test_pipeline_cfg(cfg.copy())]
    steps[0] = dict(type='mmdet.LoadImageFromNDArray')
    pipeline = Compose(steps)
    visualizer = VISUALIZERS.build(
        dict(type='DetLocalVisualizer', name='predict'))
    visualizer.dataset_meta = model.dataset_meta
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        inputs = [_load(image, pipeline) for image in images[part]]
        samples = iter(())
        if any(inputs):
            batch = pseudo_collate([found[1] for found in inputs if found])
            if prepare:
                model, prepare = prepare(model, batch), None
            with torch.no_grad():
                samples = iter(model.test_step(batch))
        for image, found, (picture, record) in zip(
                images[part], inputs, outputs[part]):
            if found is None:
                yield image, None
                continue
            pixels, _ = found
            sample = next(samples).cpu()
            sample.pred_instances = sample.pred_instances[
                sample.pred_instances.scores >= score_thr]
            picture.parent.mkdir(parents=True, exist_ok=True)
            record.parent.mkdir(parents=True, exist_ok=True)
            visualizer.add_datasample(
                'predict', mmcv.bgr2rgb(pixels), sample, draw_gt=False,
                pred_score_thr=score_thr, out_file=str(picture))
            instances = to_instances(sample, model.dataset_meta['classes'])
            record.write_text(json.dumps(dict(
                image=str(image), height=pixels.shape[0],
                width=pixels.shape[1], instances=instances)))
            yield image, len(instances)


def _load(image: Path, pipeline: Compose) -> tuple[np.ndarray, dict] | None:
    """Return BGR pixels and network input, None if the image is unusable."""
    try:
        pixels = mmcv.imread(str(image))
        if pixels is None:  # not an image
            return None
        return pixels, pipeline(
            dict(img=pixels, img_id=0, img_path=str(image)))
    except (OSError, cv2.error):  # cut short, or too narrow to be resized
        return None


def to_instances(sample: DetDataSample,
                 classes: Sequence[str]) -> list[dict]:
    """Convert detections to the ``instances`` of :func:`detect_files`."""
    found = sample.pred_instances
    instances = [
        {'label': label, 'class': classes[label], 'score': score, 'bbox': box}
        for label, score, box in zip(found.labels.tolist(),
                                     found.scores.tolist(),
                                     found.bboxes.tolist())]
    if 'masks' in found:
        for instance, mask in zip(
                instances, encode_mask_results(found.masks.numpy())):
            instance['mask'] = {**mask, 'counts': mask['counts'].decode()}
    return sorted(instances, key=lambda instance: -instance['score'])
