"""What an exporter takes: networks with example inputs and names."""
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.config import ConfigDict
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

from ...utils.errors import UserError


class Graph(NamedTuple):
    """One network to be written to one file.

    Attributes:
        name: Part of the file's name: ``'roi'`` makes ``detector.roi.onnx``.
            Empty for the first graph, whose file holds the metadata.
        module: Takes the tensors of ``inputs`` by position, returns a tensor
            or a tuple of them.
        inputs: Examples by name, in the order of the arguments.
        outputs: Names, in the order of the results.
        dynamic: For an input or output the axes without a fixed size, and
            their names. Axes of inputs with one name have one size.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    dynamic: dict[str, dict[int, str]]


class Normalizer(nn.Module):
    """Normalization inside a graph, as a data preprocessor does it."""

    def __init__(self, preprocessor: ImgDataPreprocessor) -> None:
        super().__init__()
        self.swap = preprocessor._channel_conversion
        self.pad_value = float(preprocessor.pad_value)
        for name in ('mean', 'std'):
            value = getattr(preprocessor, name, None)
            self.register_buffer(name, None if value is None else
                                 value.detach().cpu().float())

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        """Make the network's input, (1, 3, H, W), float32.

        Args:
            image: BGR, (1, H, W, 3), uint8, padded at the bottom and right.
            size: Height and width without the padding, (2, ), int64.
        """
        image = image.permute(0, 3, 1, 2).float()
        if self.swap:
            image = image.flip(1)
        if self.mean is not None:
            image = (image - self.mean) / self.std
        inside = ((torch.arange(image.shape[2]) < size[0])[:, None]
                  & (torch.arange(image.shape[3]) < size[1]))
        return torch.where(inside, image, self.pad_value)


def create_image_input(
    preprocessor: ImgDataPreprocessor, shape: tuple[int, int], *,
    dynamic: bool, normalize: bool
) -> tuple[nn.Module | None, dict[str, Tensor], dict[str, dict[int, str]]]:
    """Create the start of a first graph, whose input is called ``image``.

    Returns:
        The module that normalizes, or None; example inputs ``image``, uint8
        (1, H, W, 3) if it normalizes, else float32 (1, 3, H, W), and ``size``,
        height and width without padding; and the dynamic axes.
    """
    if normalize:
        start, axes = Normalizer(preprocessor), {1: 'height', 2: 'width'}
        image = torch.randint(256, (1, *shape, 3), dtype=torch.uint8)
    else:
        start, axes = None, {2: 'height', 3: 'width'}
        image = torch.randn(1, 3, *shape)
    return (start, dict(image=image, size=torch.tensor(shape)),
            dict(image=axes) if dynamic else {})


def run_example(network: Callable, inputs: Mapping[str, Tensor]) -> Any:
    """Run a first graph on its example inputs, or refuse their shape."""
    try:
        with torch.no_grad():
            return network(*inputs.values())
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        height, width = inputs['size'].tolist()
        raise UserError(
            f'--shape {height} {width}: the network cannot take it '
            f'({reason}); give another, or leave it out') from error


def read_nms(cfg: ConfigDict, owner: nn.Module) -> dict:
    """Return ``iou_threshold`` and ``class_agnostic`` of ``test_cfg.nms``."""
    known = {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
    if (cfg.get('type', 'nms') != 'nms' or 'iou_threshold' not in cfg
            or set(cfg) - known):
        raise UserError(
            f'{type(owner).__name__}: test_cfg.nms is {dict(cfg)}, which '
            "cannot be exported; set dict(type='nms', iou_threshold=...)")
    return dict(iou_threshold=cfg['iou_threshold'],
                class_agnostic=cfg.get('class_agnostic', False))
