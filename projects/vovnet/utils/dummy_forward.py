"""Run a model's layers without a data set, decoding or NMS."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor, nn


def get_max_proposals(network: nn.Module) -> int:
    """Return the most proposals that RoI heads get in a test.

    0 for a model without an RPN followed by RoI heads.
    """
    if not (getattr(network, 'with_rpn', False)
            and getattr(network, 'with_roi_head', False)):
        return 0
    return (network.test_cfg.get('rpn') or {}).get('max_per_img', 1000)


def create_placeholder_samples(images: Tensor) -> list[DetDataSample]:
    """Create the metainfo of synthetic images, neither resized nor padded.

    Args:
        images: (N, C, H, W).
    """
    shape = tuple(images.shape[-2:])
    return [
        DetDataSample(metainfo=dict(
            img_id=i, img_shape=shape, ori_shape=shape, pad_shape=shape,
            batch_input_shape=shape, scale_factor=(1., 1.)))
        for i in range(len(images))]


def run_network(network: nn.Module, images: Tensor,
                samples: list[DetDataSample] | None = None) -> Any:
    """Run all layers of a network, without decoding and NMS.

    RoI heads get :func:`get_max_proposals` equal boxes for each image, the
    most that they get in a test.

    Args:
        network: A detector, a classifier or a part of one; not changed.
        images: (N, C, H, W).
        samples: Metainfo of the images; by default
            :func:`create_placeholder_samples`.

    Returns:
        The output of the network's forward in mode 'tensor'.
    """
    if not isinstance(network, BaseModel):
        return network(images)
    samples = samples or create_placeholder_samples(images)
    with _fix_proposals(network, images):
        return network(images, samples, mode='tensor')


@contextmanager
def _fix_proposals(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Let the RPN of a two-stage detector always propose the same boxes."""
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
