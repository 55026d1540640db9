"""The tables of docs/measuring.md are what is counted."""
from pathlib import Path

import pytest
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from vovnet.analysis import compute_complexity
from vovnet.models import CIFARNet, VoVNet

PAGE = Path(__file__).parents[2] / 'docs/measuring.md'


def rows(first):
    """Cells of the table whose header begins with ``first``."""
    lines = iter(PAGE.read_text().splitlines())
    next(line for line in lines if line.startswith(f'| {first} |'))
    next(lines)
    for line in lines:
        if not line.startswith('|'):
            return
        yield [cell.strip() for cell in line.strip('|').split('|')]


@pytest.mark.parametrize('row', rows('CIFARNet'), ids=lambda row: row[0])
def test_cifar_study(row):
    cost = compute_complexity(CIFARNet(row[0]), (1, 3, 32, 32)).total
    assert row[1:5] == [
        f'{cost.params / 1e6:.2f}', f'{cost.macs / 1e6:.1f}',
        f'{cost.memory_access_cost / 1e6:.2f}', f'{cost.cat_bytes / 1e6:.2f}']


@pytest.mark.parametrize('row', rows('backbone'), ids=lambda row: row[0])
def test_backbones(row):
    name, size = row[0], int(row[1])
    family, _, depth = name.partition('-')
    if family == 'V1':
        network = VoVNet(name)
    else:
        init_default_scope('mmpretrain')
        key = 'arch' if family == 'DenseNet' else 'depth'
        network = MODELS.build({
            'type': family, key: depth if key == 'arch' else int(depth)})
    cost = compute_complexity(network, (1, 3, size, size)).total
    assert row[2:] == [
        f'{cost.params / 1e6:.2f}', f'{cost.macs / 1e9:.2f}',
        *(f'{n / 1e6:.1f}' for n in (cost.memory_access_cost, cost.elements,
                                     cost.cat_bytes))]


def test_figures_of_compare_fit_together():
    found = list(rows('network'))
    assert len(found) == 6
    for row in found:
        macs, fps, ms = (float(row[i]) for i in (2, 3, 4))
        assert fps == pytest.approx(1000 / ms, abs=0.06)
        assert float(row[9]) == pytest.approx(macs * 1000 / ms, rel=2e-3)
        assert int(row[6]) <= 20  # not disturbed
