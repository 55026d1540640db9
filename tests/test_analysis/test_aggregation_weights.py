"""Weights are set by hand, so that every cell is known."""
import csv

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch.testing import assert_close

from vovnet.analysis.aggregation_weights import (
    FIELDS,
    BlockWeights,
    compute_aggregation_weights,
    draw_blocks,
    write_csv,
)
from vovnet.engine.build import build_network, load_network
from vovnet.models import CIFARNet, VoVNet
from vovnet.utils.errors import UserError

NAN = float('nan')
DENSE = dict(type='mmpretrain.DenseNet', arch=dict(
    growth_rate=4, depths=[2, 1], init_channels=8))


def osa(depthwise=False, **kwargs):
    """One block of two layers: a source of 8 channels, two of 4 or 6."""
    return VoVNet(dict(
        num_blocks=(1, ), num_layers=2, stem_channels=(4, 4, 8),
        stage_channels=(6 if depthwise else 4, ), aggregated_channels=(5, ),
        depthwise=depthwise), **kwargs)


def fill(weight, widths, values):
    """Give the channels of each source one absolute value, signs mixed."""
    with torch.no_grad():
        for part, value in zip(weight.split(widths, dim=1), values):
            signs = torch.arange(part.numel()).view_as(part) % 3 - 0.5
            part.copy_(value * signs.sign())


def equal(block, values):
    np.testing.assert_allclose(block.values, np.array(values), rtol=1e-6)


def test_osa_block():
    network = osa()
    block = network.stage2.block1
    fill(block.layers[0].conv.weight, [8], [3])
    fill(block.layers[1].conv.weight, [4], [7])
    fill(block.aggregation.conv.weight, [8, 4, 4], [2, 8, 4])
    found, = compute_aggregation_weights(network)
    assert found.name == 'stage2.block1'
    assert found.layers == ('1', '2', 'aggregation')
    equal(found, [[3, NAN, 2], [NAN, 7, 8], [NAN, NAN, 4]])
    np.testing.assert_allclose(found.normalized, [
        [1, NAN, 0.25], [NAN, 1, 1], [NAN, NAN, 0.5]])


def test_the_mean_is_over_a_whole_slice():
    network = osa(ese='all', residual=True)
    weight = network.stage2.block1.aggregation.conv.weight
    found, = compute_aggregation_weights(network)
    for source, channels in enumerate((range(8), range(8, 12),
                                       range(12, 16))):
        total = sum(abs(weight[o, i, 0, 0].item())
                    for o in range(5) for i in channels)
        assert found.values[source, -1] == pytest.approx(
            total / (5 * len(channels)))


def test_bottlenecks_take_the_sources():
    network = osa(bottleneck=True)
    block = network.stage2.block1
    for (narrow, wide), source, value in zip(block.layers, (8, 4), (3, 7)):
        fill(narrow.conv.weight, [source], [value])
        fill(wide.conv.weight, [2], [99])
    fill(block.aggregation.conv.weight, [8, 4, 4], [2, 8, 4])
    found, = compute_aggregation_weights(network)
    equal(found, [[3, NAN, 2], [NAN, 7, 8], [NAN, NAN, 4]])


def test_depthwise_block_with_its_reduction():
    network = osa(depthwise=True)
    block = network.stage2.block1
    fill(block.reduction.conv.weight, [8], [9])
    for layer, pair in zip(block.layers, ((2, 3), (5, 7))):
        fill(layer.depthwise_conv.conv.weight, [1], pair[:1])
        fill(layer.pointwise_conv.conv.weight, [6], pair[1:])
    fill(block.aggregation.conv.weight, [8, 6, 6], [1, 2, 4])
    found, = compute_aggregation_weights(network)
    assert found.layers == ('reduction', '1', '2', 'aggregation')
    equal(found, [[9, 2 * 3, NAN, 1], [NAN, NAN, 5 * 7, 2],
                  [NAN, NAN, NAN, 4]])


def test_depthwise_layer_is_taken_as_the_dense_kernel_it_amounts_to():
    network = osa(depthwise=True)
    layer = network.stage2.block1.layers[1]
    # The response to an impulse in each channel is the kernel, mirrored.
    impulses = torch.zeros(6, 6, 5, 5)
    impulses[range(6), range(6), 2, 2] = 1
    with torch.no_grad():
        kernel = layer.pointwise_conv.conv(
            layer.depthwise_conv.conv(impulses))[..., 1:4, 1:4]
    found, = compute_aggregation_weights(network)
    assert found.values[1, 2] == pytest.approx(kernel.abs().mean().item())


def test_dense_blocks_of_the_cifar_study():
    network = CIFARNet('DenseNet-40')
    block, width = network.blocks.block2, 16 + 12 * 12
    widths = [width] + 12 * [12]
    for i, layer in enumerate(block.layers, 1):
        fill(layer.conv.weight, widths[:i], range(i, 2 * i))
    fill(network.blocks.transition2.conv.weight, widths, range(1, 14))
    found = compute_aggregation_weights(network)
    assert [b.name for b in found] == [
        'blocks.block1', 'blocks.block2', 'blocks.block3']
    assert found[1].layers == (*map(str, range(1, 13)), 'transition')
    equal(found[1], [
        [i + s if s < i else NAN for i in range(1, 13)] + [1 + s]
        for s in range(13)])
    # No classifier is there to take what the last layer puts out.
    assert found[2].layers == tuple(map(str, range(1, 13)))
    assert np.isnan(found[2].values[12]).all()


def classifier(backbone, in_channels, num_classes=3):
    return Config(dict(default_scope='mmpretrain', model=dict(
        type='ImageClassifier', backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=num_classes,
                  in_channels=in_channels))))


def test_dense_blocks_of_mmpretrain():
    network = build_network(classifier(DENSE, 12))
    first, second = network.backbone.stages
    fill(first.block[0].conv1.weight, [8], [6])
    fill(first.block[1].conv1.weight, [8, 4], [1, 2])
    fill(network.backbone.transitions[0].conv.weight, [8, 4, 4], [4, 3, 5])
    fill(second.block[0].conv1.weight, [8], [7])
    fill(network.head.fc.weight, [8, 4], [8, 9])
    blocks = compute_aggregation_weights(network)
    assert [b.name for b in blocks] == [
        'backbone.stages.0', 'backbone.stages.1']
    assert blocks[0].layers == ('1', '2', 'transition')
    equal(blocks[0], [[6, 1, 4], [NAN, 2, 3], [NAN, NAN, 5]])
    assert blocks[1].layers == ('1', 'classifier')
    equal(blocks[1], [[7, 8], [NAN, 9]])


def test_classifier_of_the_cifar_study():
    network = build_network(
        classifier(dict(type='CIFARNet', arch='DenseNet-40'), 448))
    widths = [16 + 24 * 12] + 12 * [12]
    fill(network.head.fc.weight, widths, range(1, 14))
    last = compute_aggregation_weights(network)[-1]
    assert last.name == 'backbone.blocks.block3'
    assert last.layers[-1] == 'classifier'
    assert last.values[:, -1] == pytest.approx(range(1, 14))


def test_a_column_of_zeros_stays_zero():
    block = BlockWeights('b', ('1', 'aggregation'), np.array(
        [[0., 2.], [NAN, 1.]]))
    np.testing.assert_array_equal(block.normalized, [[0, 1], [NAN, 0.5]])


def test_errors_of_a_network():
    with pytest.raises(UserError, match='no OSA block'):
        compute_aggregation_weights(torch.nn.Conv2d(3, 3, 1))
    network = osa()
    with torch.no_grad():
        network.stage2.block1.layers[1].conv.weight[0, 0, 0, 0] = NAN
    with pytest.raises(UserError, match='stage2.block1: .* layer 2 .*finite'):
        compute_aggregation_weights(network)


def test_checkpoints(tmp_path):
    def load(*args):
        return load_network(cfg, str(path), *args)

    cfg, path = classifier(DENSE, 12), tmp_path / 'a.pth'
    trained = build_network(cfg)
    torch.save(dict(state_dict=trained.state_dict()), path)
    assert_close(load().state_dict(), trained.state_dict())
    # The backbone alone, of a whole model with another head, or by itself.
    cfg = classifier(DENSE, 12, num_classes=4)
    with pytest.raises(UserError, match='a.pth: is of another model'):
        load()
    weights = trained.backbone.state_dict()
    assert_close(load('backbone').state_dict(), weights)
    torch.save(weights, path)
    assert_close(load('backbone').state_dict(), weights)
    cfg = classifier(dict(type='VoVNet', arch='V2-19-slim-dw'), 512)
    with pytest.raises(UserError, match='a.pth: is of another model'):
        load('backbone')


@pytest.fixture
def blocks():
    rng = np.random.default_rng(0)
    return [
        BlockWeights(f'b{i}', ('1', '2', 'aggregation'), np.where(
            [[1, 0, 1], [0, 1, 1], [0, 0, 1]], rng.random((3, 3)), NAN))
        for i in range(5)]


def test_figure(blocks):
    figure = draw_blocks(blocks, 'a title', columns=2)
    *panels, bar = figure.axes
    assert figure.get_suptitle() == 'a title'
    assert [panel.get_title() for panel in panels] == [
        b.name for b in blocks]
    for panel, block in zip(panels, blocks):
        image, = panel.images
        shown = image.get_array()
        np.testing.assert_array_equal(shown.mask, np.isnan(block.values))
        np.testing.assert_array_equal(shown.filled(NAN), block.normalized)
        assert image.get_clim() == (0, 1) and image.cmap.name == 'jet'
        assert [(t.get_text(), t.get_position()[0])
                for t in panel.get_xticklabels()] == [
            ('1', 0), ('2', 1), ('aggregation', 2)]
        assert panel.get_xlabel() and panel.get_ylabel()
    assert 'maximum of the column' in bar.get_ylabel()
    # Row by row, and none over another.
    figure.draw_without_rendering()
    boxes = [panel.get_window_extent() for panel in panels]
    assert boxes[0].x1 < boxes[1].x0 and boxes[0].y0 > boxes[2].y1
    assert boxes[0].y0 == boxes[1].y0


@pytest.mark.parametrize('count', [13, 49])
def test_labels_of_large_blocks_have_room(count):
    layers = *map(str, range(1, count)), 'transition'
    block = BlockWeights('b', layers, np.ones((count, count)))
    figure = draw_blocks(4 * [block])
    figure.draw_without_rendering()
    for axis in figure.axes[:4]:
        boxes = [t.get_window_extent() for t in axis.get_xticklabels()]
        assert len(boxes) >= 7
        assert all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:]))


def test_csv_round_trip(blocks, tmp_path):
    write_csv(blocks, tmp_path / 'a.csv')
    with open(tmp_path / 'a.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == FIELDS
    assert len(rows) == 5 * 5
    for block in blocks:
        values, normalized = np.full((2, 3, 3), NAN)
        for row in rows:
            if row['block'] == block.name:
                cell = int(row['source']), block.layers.index(row['layer'])
                values[cell] = row['value']
                normalized[cell] = row['normalised']
        np.testing.assert_array_equal(values, block.values)
        np.testing.assert_array_equal(normalized, block.normalized)
