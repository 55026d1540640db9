"""The paper's tables: their figures, and their own arithmetic."""
import pytest

from vovnet.analysis import compute_config_complexity
from vovnet.benchmark.report import COLUMNS
from vovnet.engine.config import load_config
from vovnet.paper.tables import TABLES, load_rows

TITLES = ('multiply-adds, G', 'FPS', 'parameters, M', 'peak memory, MB',
          'J/image', 'GFLOP/s')
# A copy of what the paper prints: these titles, and the accuracy.
PRINTED = dict(
    table2={
        'SSD300 MobileNet': (1.1, 37, 5.7, 766, 2.3, 42, 68.0),
        'Pelee304 PeleeNet': (1.2, 35, 5.4, 1104, 2.4, 43, 70.9),
        'DSOD300 DenseNet-67': (5.3, 35, 5.9, 1294, 3.7, 189, 73.6),
        'DSOD300 VoVNet-27-slim': (5.6, 71, 5.9, 825, 0.9, 400, 74.8)},
    table3={
        'DSOD300 VoVNet-27-slim': (
            5.6, 1000 / 14, 5.9, 825, None, None, 74.8),
        '+ bottleneck': (4.6, 1000 / 18, 4.8, 895, None, None, 71.1)},
    table4={
        'ResNet-50': (25.43, 23.2, 63.46, 2229, 5.3, 591.3, 30.3),
        'DenseNet-201': (24.65, 12.0, 56.13, 3498, 9.9, 296.9, 32.5),
        'VoVNet-39': (32.6, 25.0, 56.28, 2199, 4.8, 815.0, 33.5),
        'ResNet-101': (33.02, 17.5, 82.45, 3013, 7.5, 579.2, 32.0),
        'DenseNet-161': (32.74, 12.8, 66.76, 3628, 10.0, 419.7, 33.5),
        'VoVNet-57': (36.45, 21.2, 70.32, 2511, 5.9, 775.5, 33.9)})


@pytest.mark.parametrize('table', TABLES)
def test_figures_are_those_of_the_paper(table):
    found = {row.name: (*map(row.figures.get, TITLES), row.accuracy)
             for row in load_rows([table])}
    assert list(found.items()) == list(PRINTED[table].items())


@pytest.mark.parametrize(('table', 'rel'), [('table2', 0.04),
                                            ('table4', 4e-3)])
def test_efficiency_is_flops_times_fps(table, rel):
    """Within what its rounded factors allow: see paper's Eq. 2."""
    for row in load_rows([table]):
        paper = row.figures
        assert paper['GFLOP/s'] == pytest.approx(
            paper['multiply-adds, G'] * paper['FPS'], rel=rel)
        assert set(paper) <= {column.title for column in COLUMNS}


def test_tables_share_a_row():
    names = [row.name for row in load_rows(['table2', 'table3'])]
    assert len(names) == 5 and names[-1] == '+ bottleneck'


@pytest.mark.parametrize(
    'row', load_rows(list(TABLES)), ids=lambda row: row.name.replace(' ', '-'))
def test_configs_are_the_papers_networks(row):
    cost = compute_config_complexity(load_config(row.config)).total
    # Table 2's and 3's figures are cut short, not rounded, and some of them
    # count more than convolutions; DenseNet's wiring is not known for sure.
    assert cost.params / 1e6 == pytest.approx(
        row.figures['parameters, M'], rel=0.03)
    assert cost.macs / 1e9 == pytest.approx(
        row.figures['multiply-adds, G'], rel=0.07)
