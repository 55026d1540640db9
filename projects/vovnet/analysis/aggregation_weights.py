"""Heat maps of the weights between the layers of a block.

Figure 2 of the VoVNet paper (arXiv:1904.09730), after Figure 5 of "Densely
Connected Convolutional Networks" (arXiv:1608.06993). The latter divides the L1
norm of the weights between two layers by the number of input maps; here it is
the mean absolute weight, which is equal once the columns are normalized. The
scales of norm layers are not multiplied in.
"""
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from mmcv.cnn import DepthwiseSeparableConvModule
from torch import Tensor, nn

from ..models.backbones.cifar import CIFARNet, DenseBlock
from ..models.backbones.vovnet import OSABlock
from ..utils.errors import UserError

FIELDS = ('block', 'source', 'layer', 'value', 'normalised')


class BlockWeights(NamedTuple):
    """Mean absolute weights between the layers of one block.

    Attributes:
        name: Dotted name of the block in the network.
        layers: Names of the columns.
        values: (sources, layers), float64. Source 0 is the block's input,
            source s the output of its s-th layer; NaN where a layer does not
            take a source.
    """
    name: str
    layers: tuple[str, ...]
    values: np.ndarray

    @property
    def normalized(self) -> np.ndarray:
        """``values``, each column divided by its maximum (if not 0)."""
        largest = np.nanmax(self.values, axis=0)
        return self.values / np.where(largest > 0, largest, 1)


class _Column(NamedTuple):
    """A layer with its weights for each source, from ``first`` on."""
    layer: str
    first: int
    weights: Sequence[Tensor]


def compute_aggregation_weights(network: nn.Module) -> list[BlockWeights]:
    """Compute the mean absolute weights of the layers for their sources.

    The columns of an :class:`~vovnet.models.backbones.vovnet.OSABlock` of n
    layers are

    - 'reduction', in depthwise blocks that have one: the 1x1 convolution that
      narrows source 0 for layer 1;
    - '1' to 'n', of which each takes only the source before it. Behind a
      reduction, layer 1 takes source 0 through it. A depthwise separable
      layer counts as the kernel that its two convolutions amount to;
    - 'aggregation', the 1x1 convolution that takes all sources: in the
      paper's figure the transition layer.

    Those of a dense block (of :class:`~vovnet.models.CIFARNet`, and of
    mmpretrain's ``DenseNet``, where the 1x1 bottleneck of a layer takes the
    sources) are '1' to 'n', each of which takes all sources before it, and
    what takes the block's output: 'transition' or, behind the last block of a
    classifier with a linear head, 'classifier'; in a backbone alone the
    column is left out.

    Args:
        network: A model or a backbone, with its weights.

    Returns:
        One item for each block, in the network's order.

    Raises:
        UserError: If the network has no such block, or a weight is not
            finite.
    """
    found = [_compute_block(*block) for block in _find_blocks(network)]
    if not found:
        raise UserError(
            f'{type(network).__name__}: has no OSA block and no dense block; '
            'give a model whose backbone is VoVNet, CIFARNet or '
            'mmpretrain.DenseNet')
    return found


def _compute_block(name: str,
                   columns: Sequence[_Column]) -> BlockWeights:
    # The input, and the output of each numbered layer.
    sources = 1 + sum(column.layer.isdigit() for column in columns)
    values = np.full((sources, len(columns)), np.nan)
    for j, (layer, first, weights) in enumerate(columns):
        for source, weight in enumerate(weights, first):
            value = weight.detach().double().abs().mean().item()
            if not np.isfinite(value):
                raise UserError(f'{name}: the weights of layer {layer} are '
                                'not finite (the training diverged); take '
                                'an earlier checkpoint')
            values[source, j] = value
    return BlockWeights(name, tuple(c.layer for c in columns), values)


def _find_blocks(network: nn.Module) -> Iterator[tuple[str, list[_Column]]]:
    """Yield the names and columns of all blocks."""
    # A network that has one has imported it; nobody else has to.
    mmpretrain = sys.modules.get('mmpretrain.models.backbones.densenet')
    classifier = getattr(getattr(network, 'head', None), 'fc', None)
    for name, module in network.named_modules():
        prefix = f'{name}.' if name else ''
        if isinstance(module, OSABlock):
            yield name, _list_osa_columns(module)
        elif isinstance(module, CIFARNet):
            for child, block in module.blocks.named_children():
                if isinstance(block, DenseBlock):
                    transition = getattr(
                        module.blocks, child.replace('block', 'transition'),
                        None)
                    convs = [layer.conv for layer in block.layers]
                    yield f'{prefix}blocks.{child}', _list_dense_columns(
                        convs, convs, transition, classifier)
        elif mmpretrain and isinstance(module, mmpretrain.DenseNet):
            for i, (block, transition) in enumerate(
                    zip(module.stages, module.transitions)):
                yield f'{prefix}stages.{i}', _list_dense_columns(
                    [layer.conv1 for layer in block.block],
                    [layer.conv2 for layer in block.block],
                    transition, classifier)


def _list_osa_columns(block: OSABlock) -> list[_Column]:
    # A layer with a bottleneck takes its source through that, and returns the
    # output of its 3x3 convolution.
    layers = [layer if isinstance(layer, nn.Sequential) else [layer]
              for layer in block.layers]
    columns = [_Column(str(i), i - 1, [_get_kernel(layer[0])])
               for i, layer in enumerate(layers, 1)]
    widths = [_get_kernel(layer[-1]).shape[0] for layer in layers]
    joined = block.aggregation.conv.weight
    widths.insert(0, joined.shape[1] - sum(widths))
    if block.reduction is not None:
        columns.insert(
            0, _Column('reduction', 0, [block.reduction.conv.weight]))
    return [*columns, _Column('aggregation', 0, joined.split(widths, dim=1))]


def _get_kernel(layer: nn.Module) -> Tensor:
    """Return (out, in, 3, 3), also of a depthwise separable layer."""
    if not isinstance(layer, DepthwiseSeparableConvModule):
        return layer.conv.weight
    depthwise = layer.depthwise_conv.conv.weight  # (in, 1, 3, 3)
    return layer.pointwise_conv.conv.weight * depthwise.transpose(0, 1)


def _list_dense_columns(readers: Sequence[nn.Conv2d],
                        writers: Sequence[nn.Conv2d],
                        transition: nn.Module | None,
                        classifier: nn.Module | None) -> list[_Column]:
    """List the columns of a dense block.

    Args:
        readers: The convolution of each layer that takes the sources.
        writers: The convolution of each layer that makes its output.
        transition: Behind the block; without ``conv`` behind the last one.
        classifier: The model's last layer, if it has one.
    """
    widths = [readers[0].in_channels, *(conv.out_channels
                                        for conv in writers)]
    takers = [(str(i), conv) for i, conv in enumerate(readers, 1)]
    if conv := getattr(transition, 'conv', None):
        takers.append(('transition', conv))
    elif getattr(classifier, 'in_features', None) == sum(widths):
        takers.append(('classifier', classifier))
    return [_Column(layer, 0, taker.weight.split(widths[:i], dim=1))
            for i, (layer, taker) in enumerate(takers, 1)]


def draw_blocks(blocks: Sequence[BlockWeights], title: str = '',
                columns: int = 4) -> Figure:
    """Draw normalized weights as the paper's Figure 2 does.

    Colors (jet) are from 0 to 1, white where there is no connection.

    Args:
        blocks: One heat map for each.
        title: Of the figure: the network and its training.
        columns: Heat maps in a row.
    """
    columns = min(columns, len(blocks))
    rows = -(-len(blocks) // columns)
    figure = Figure(figsize=(max(3.2 * columns + 1, 6), 3.4 * rows + 0.6),
                    layout='constrained')
    if title:
        figure.suptitle(title, fontsize=10)
    jet = colormaps['jet'].with_extremes(bad='white')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, block in zip(axes, blocks):
        picture = axis.imshow(
            block.normalized, cmap=jet, vmin=0, vmax=1, aspect='auto',
            interpolation='nearest')
        axis.set_title(block.name, fontsize=9)
        axis.set(xlabel='layer $l$', ylabel='source $s$')
        # Words, and numbers as far as there is room for them.
        step = -(-len(block.values) // 12)
        shown = [j for j, layer in enumerate(block.layers)
                 if not layer.isdigit() or int(layer) % step == 1 % step]
        axis.set_xticks(shown, [block.layers[j] for j in shown])
        for label in axis.get_xticklabels():
            if not label.get_text().isdigit():
                label.set(rotation=90)
        axis.set_yticks(range(0, len(block.values), step))
        axis.tick_params(labelsize=8)
    for axis in axes[len(blocks):]:
        axis.remove()
    bar = figure.colorbar(picture, ax=axes[:len(blocks)].tolist(),
                          aspect=20 * rows, pad=0.01)
    bar.set_label('mean |weight| / maximum of the column', fontsize=9)
    return figure


def write_csv(blocks: Sequence[BlockWeights], path: str | os.PathLike
              ) -> None:
    """Write a row for each connection, with the columns of ``FIELDS``.

    Numbers are written in full: reading them gives the same float64.
    """
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for block in blocks:
            normalized = block.normalized
            for source, layer in np.argwhere(~np.isnan(block.values)):
                writer.writerow([
                    block.name, source, block.layers[layer],
                    float(block.values[source, layer]),
                    float(normalized[source, layer])])
