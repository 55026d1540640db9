"""What an exporter is given: a graph, and the way from pixels into it.

Own work.
"""
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.model import ImgDataPreprocessor
from torch import Tensor, nn

from ...utils.errors import UserError


class Graph(NamedTuple):
    """One network to be written to one file.

    Attributes:
        name (str): What the file's name gets: ``'roi'`` makes
            ``detector.roi.onnx``. Empty for the first graph, which the
            metadata are written to.
        module (nn.Module): In eval mode; takes the tensors of ``inputs`` by
            position, gives a tensor or a tuple of them.
        inputs (dict[str, Tensor]): Examples, in the order of the arguments.
        outputs (list[str]): Names, in the order of the results.
        dynamic (dict[str, dict[int, str]]): For an input or output the axes
            that have no fixed size, and what they are called. Axes of inputs
            with the same name have the same size.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    dynamic: dict[str, dict[int, str]]


class Pixels(nn.Module):
    """Normalises inside of a graph, as the model's data preprocessor does.

    Args:
        preprocessor (ImgDataPreprocessor): Gives mean, deviation, order of
            the channels and the value of the padding.
    """

    def __init__(self, preprocessor: ImgDataPreprocessor) -> None:
        super().__init__()
        self.swap = preprocessor._channel_conversion
        self.pad_value = float(preprocessor.pad_value)
        for name in ('mean', 'std'):
            value = getattr(preprocessor, name, None)
            self.register_buffer(name, None if value is None else
                                 value.detach().cpu().float())

    def forward(self, picture: Tensor, size: Tensor) -> Tensor:
        """Make the network's input.

        Args:
            picture (Tensor): BGR, 0 to 255, (1, H, W, 3), uint8, padded at
                the bottom and on the right.
            size (Tensor): Height and width without the padding, (2, ), int64.

        Returns:
            Tensor: (1, 3, H, W), float32.
        """
        image = picture.permute(0, 3, 1, 2).float()
        if self.swap:
            image = image.flip(1)
        if self.mean is not None:
            image = (image - self.mean) / self.std
        inside = ((torch.arange(image.shape[2]) < size[0])[:, None]
                  & (torch.arange(image.shape[3]) < size[1]))
        return torch.where(inside, image, self.pad_value)


def image_input(preprocessor: ImgDataPreprocessor, shape: tuple[int, int],
                normalize: bool) -> tuple[nn.Module | None, Tensor]:
    """The start of a first graph, whose input is called ``image``.

    Args:
        preprocessor (ImgDataPreprocessor): Of the detector.
        shape (tuple[int, int]): Height and width, px.
        normalize (bool): Whether the graph normalises.

    Returns:
        tuple: The module that normalises, None if the graph is to be given
        what the preprocessor gives; and an example of the input: uint8
        (1, H, W, 3) or float32 (1, 3, H, W).
    """
    if normalize:
        return Pixels(preprocessor), torch.randint(
            256, (1, *shape, 3), dtype=torch.uint8)
    return None, torch.randn(1, 3, *shape)


def try_shape(network: Callable, inputs: Mapping[str, Tensor],
              shape: tuple[int, int]) -> Any:
    """Run a first graph once on its examples.

    Args:
        network (Callable): Takes the inputs by position.
        inputs (Mapping[str, Tensor]): Examples of that shape.
        shape (tuple[int, int]): Height and width, px.

    Returns:
        Any: What the network gives.

    Raises:
        UserError: If it cannot take pictures of that shape.
    """
    try:
        with torch.no_grad():
            return network(*inputs.values())
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f'--shape {shape[0]} {shape[1]}: the network cannot take it '
            f'({reason}); give another, or leave it out') from error
