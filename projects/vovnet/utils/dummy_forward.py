"""A model's layers on images alone: no data set, no decoding, no NMS.

Own work on mmdet 3.3.0 (``TwoStageDetector._forward``, read) and mmengine
0.10.7.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor, nn


def get_max_proposals(network: nn.Module) -> int:
    """How many proposals RoI heads get, at most, by a model's ``test_cfg``.

    Args:
        network (nn.Module): Any model.

    Returns:
        int: 0 if it has no RPN with RoI heads behind it.
    """
    if not (getattr(network, 'with_rpn', False)
            and getattr(network, 'with_roi_head', False)):
        return 0
    return (network.test_cfg.get('rpn') or {}).get('max_per_img', 1000)


def create_placeholder_samples(images: Tensor) -> list[DetDataSample]:
    """What a detector wants to know about images that are no pictures.

    Args:
        images (Tensor): (N, C, H, W), neither resized nor padded.

    Returns:
        list[DetDataSample]: One for each image.
    """
    shape = tuple(images.shape[-2:])
    return [
        DetDataSample(metainfo=dict(
            img_id=i, img_shape=shape, ori_shape=shape, pad_shape=shape,
            batch_input_shape=shape, scale_factor=(1., 1.)))
        for i in range(len(images))]


def run_network(network: nn.Module, images: Tensor,
                samples: list[DetDataSample] | None = None) -> Any:
    """Run a network on images: all layers, no decoding and no NMS.

    RoI heads get :func:`get_max_proposals` equal boxes for each image, which
    is the most that they get in a test.

    Args:
        network (nn.Module): A detector, a classifier or a part of one; it
            stays as it is.
        images (Tensor): (N, C, H, W).
        samples (list[DetDataSample], optional): What there is to know about
            the images; by default :func:`create_placeholder_samples`.

    Returns:
        Any: What the network's forward gives in mode 'tensor'.
    """
    if not isinstance(network, BaseModel):
        return network(images)
    samples = samples or create_placeholder_samples(images)
    with _equal_proposals(network, images):
        return network(images, samples, mode='tensor')


@contextmanager
def _equal_proposals(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Have the RPN of a two-stage detector propose the same boxes always."""
    count = get_max_proposals(network)
    if not count:
        yield
        return
    heads = [module for module in network.rpn_head.modules()
             if hasattr(module, 'predict_by_feat')]
    # Filled there: a copy from the host would wait for the device.
    boxes = images.new_zeros(count, 4)
    boxes[:, 2:].fill_(32)
    proposals = [InstanceData(bboxes=boxes) for _ in images]
    for head in heads:
        head.predict_by_feat = lambda *_, **__: proposals
    try:
        yield
    finally:
        for head in heads:
            del head.predict_by_feat
