"""Write detections as an image and as JSON, without torch.

The fields of the JSON are those of ``vovnet/engine/predict.py``.
"""
import colorsys
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from ...utils.image_files import choose_output_files
from .detector import Detector
from .session import Detections


def detect_files(detector: Detector, root: Path, images: Sequence[Path],
                 out_dir: Path, score_thr: float = 0.3
                 ) -> Iterator[tuple[Path, int | None]]:
    """Detect in images; write ``vis/<image>`` and ``preds/<image>.json``.

    Args:
        detector: The detector.
        root: Folder that all images are in.
        images: The images.
        out_dir: Folder for the results.
        score_thr: Lowest score that is drawn and written.

    Yields:
        Each image and its number of detections, None if it could not be read
        or is too narrow to be resized.

    Raises:
        UserError: If a result would replace an image or another result.
    """
    for image, (picture, record) in zip(
            images, choose_output_files(root, images, out_dir)):
        pixels = cv2.imread(str(image))
        try:
            found = None if pixels is None else detector.detect(pixels)
        except cv2.error:  # too narrow to be resized
            found = None
        if found is None:
            yield image, None
            continue
        found = found.select_above(score_thr)
        picture.parent.mkdir(parents=True, exist_ok=True)
        record.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(picture), draw(pixels, found, detector.classes))
        record.write_text(json.dumps(dict(
            image=str(image), height=pixels.shape[0], width=pixels.shape[1],
            instances=to_instances(found, detector.classes))))
        yield image, len(found.scores)


def to_instances(found: Detections, classes: Sequence[str]) -> list[dict]:
    """Write detections as JSON has them.

    Args:
        found: In px of the picture.
        classes: Names of the classes.

    Returns:
        list[dict]: Best first: ``label``, ``class``, ``score``, ``bbox`` and,
        where there are masks, ``mask``.
    """
    instances = [
        {'label': label, 'class': classes[label], 'score': score, 'bbox': box}
        for label, score, box in zip(*(x.tolist() for x in (
            found.labels, found.scores, found.boxes)))]
    if found.masks is not None:
        for instance, mask in zip(instances, found.masks):
            instance['mask'] = dict(size=list(mask.shape),
                                    counts=encode_mask(mask))
    return instances


def encode_mask(mask: np.ndarray) -> str:
    """Encode a mask as the counts of COCO's compressed RLE.

    Counts pixels column by column: outside, inside, outside, ... From the
    fourth number on, each is stored as its difference to the one two before.
    A number is written as groups of 5 bits, lowest first, each plus 48 as a
    character; bit 5 says that another group follows, and bit 4 of the last
    group is the sign (pycocotools 2.0.11, ``rleToString``).

    Args:
        mask: (height, width), bool.
    """
    pixels = mask.T.ravel()
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    lengths = np.diff(changes, prepend=0, append=len(pixels)).tolist()
    text = ''
    for i, length in enumerate(lengths):
        number = length - lengths[i - 2] if i > 2 else length
        more = True
        while more:
            group, number = number & 31, number >> 5
            more = number != (-1 if group & 16 else 0)
            text += chr(48 + group + 32 * more)
    return text


def draw(image: np.ndarray, found: Detections,
         classes: Sequence[str]) -> np.ndarray:
    """Draw boxes, masks and class names on a copy of a BGR image, uint8."""
    image = image.copy()
    for i in reversed(range(len(found.scores))):  # the best on top
        label = int(found.labels[i])
        color = [round(255 * part) for part in colorsys.hsv_to_rgb(
            label / len(classes), 0.9, 1.0)]
        if found.masks is not None:
            inside = found.masks[i]
            image[inside] = (image[inside] * 0.5
                             + np.array(color) * 0.5).astype(np.uint8)
        x1, y1, x2, y2 = found.boxes[i].round().astype(int).tolist()
        cv2.rectangle(image, (x1, y1), (x2, y2), color, 1)
        text = f'{classes[label]} {found.scores[i]:.2f}'
        font = cv2.FONT_HERSHEY_SIMPLEX, 0.35
        (width, height), below = cv2.getTextSize(text, *font, 1)
        bottom = max(y1 - below, height)
        cv2.rectangle(image, (x1, bottom - height),
                      (x1 + width, bottom + below), (0, 0, 0), cv2.FILLED)
        cv2.putText(image, text, (x1, bottom), *font, color, 1, cv2.LINE_AA)
    return image
