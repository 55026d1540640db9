"""The paper's tables against their own arithmetic."""
import pytest

from vovnet.analysis import compute_config_complexity
from vovnet.benchmark.report import COLUMNS
from vovnet.engine.config import load_config
from vovnet.paper.tables import TABLES, rows


def test_efficiency_is_flops_times_fps():
    """Within what its rounded factors allow: see paper's Eq. 2."""
    for row in (*TABLES['table2'], *TABLES['table4']):
        paper = row.figures
        assert paper['GFLOP/s'] == pytest.approx(
            paper['multiply-adds, G'] * paper['FPS'], rel=0.04)
        assert set(paper) <= {column.title for column in COLUMNS}


def test_tables_share_a_row():
    names = [row.name for row in rows(['table2', 'table3'])]
    assert len(names) == 5 and names[-1] == '+ bottleneck'


@pytest.mark.parametrize(
    'row', rows(list(TABLES)), ids=lambda row: row.name.replace(' ', '-'))
def test_configs_are_the_papers_networks(row):
    cost = compute_config_complexity(load_config(row.config)).total
    # Table 2's and 3's figures are cut short, not rounded, and some of them
    # count more than convolutions; DenseNet's wiring is not known for sure.
    assert cost.params / 1e6 == pytest.approx(
        row.figures['parameters, M'], rel=0.03)
    assert cost.macs / 1e9 == pytest.approx(
        row.figures['multiply-adds, G'], rel=0.07)
