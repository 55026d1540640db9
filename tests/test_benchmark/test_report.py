"""vovnet.benchmark.report on results made by hand."""
import csv
import io
import json

import pytest
from matplotlib.figure import Figure
from mmengine.config import Config
from rich.console import Console

from vovnet.analysis.complexity import Cost
from vovnet.benchmark import report
from vovnet.benchmark.energy import Energy
from vovnet.benchmark.inference import BenchmarkEntry, Report, Result
from vovnet.benchmark.latency import Latency
from vovnet.benchmark.memory import Memory
from vovnet.utils.errors import UserError
from vovnet.utils.table import check_files

CONDITIONS = dict(timed='backbone alone', input='noise of 320 px', batch=1,
                  device='cpu', dtype='fp32 (as built)', torch='2.11.0',
                  processor='Some CPU', threads=2)


def result(name='V1-39', ms=50., joules=None, accuracy=None, spread=0.):
    """20 images/s at 50 ms; 16 G multiply-adds on a peak of 800 G/s."""
    times = [ms / 1e3 * (1 - spread), ms / 1e3, ms / 1e3 * (1 + spread)]
    energy = None if joules is None else Energy(
        'a counter', 'board', joules, joules / 2, before=dict(clock=1),
        after=dict(clock=2))
    return Result(
        BenchmarkEntry(name, Config(cfg_text=' ', filename=f'{name}.py'),
              accuracy=accuracy), 1,
        {(1, 3, 320, 320): 1},
        Cost(21_000_000, 16_000_000_000, 56_000_000, 57_000_000, 33_000_000),
        Latency([times], [[0] * 3]), Memory(150_000_000, None, None),
        800e9, energy, None, 0.2)


def build_report(*results, no_energy='no meter'):
    return Report(CONDITIONS, list(results), no_energy).to_dict()


def test_rows():
    found = build_report(result(), result('slow', 100., spread=0.5))
    header, first, second = report.list_rows(found)
    one = dict(zip(header, first))
    assert one == {
        'network': 'V1-39', 'input, px': '320x320', 'parameters, M': '21.00',
        'multiply-adds, G': '16.00', 'memory access cost, M': '56.0',
        'elements, M': '57.0', 'concat, MB': '33.0', 'FPS': '20.0',
        'median, ms': '50.0', 'p95, ms': '50.0', 'spread, %': '0',
        'peak memory, MB': '150', 'J/image': 'n/a', 'GFLOP/s': '320.0',
        '% of peak': '40'}
    # Quantiles .05 and .95 of 0.5, 1, 1.5 are 0.55 and 1.45.
    assert dict(zip(header, second))['spread, %'] == '90 !'
    said = report.list_remarks(found)
    assert any('slow ! the times differ by 90%' in line for line in said)
    assert 'Energy: n/a, no meter.' in said


def test_energy_and_accuracy_columns():
    first = result(joules=4.8, accuracy=33.5)
    first.energy.idle_watts = 60.
    found = build_report(first, result('other', joules=10.), no_energy='')
    header, first, second = report.list_rows(found)
    row = dict(zip(header, first))
    assert (row['J/image'], row['J/image above idle']) == ('4.8', '2.4')
    assert row['accuracy (given)'] == '33.5'
    assert second[-1] == 'n/a'
    assert 'Energy: a counter, of the board; idle it takes 60 W.' in (
        report.list_remarks(found))
    text = report.write_markdown(found)
    for name in 'V1-39', 'other':
        assert (f"{name}, before the windows of energy: {{'clock': 1}}"
                in text)
    row = next(csv.DictReader(io.StringIO(report.write_csv(found))))
    assert row['energy method'] == 'a counter'
    assert row['energy idle_watts'] == '60.0'


def test_more_than_the_peak_is_a_disturbed_peak():
    fast = result(ms=10.)  # 1600 G multiply-adds/s, twice the peak
    header, row = report.list_rows(build_report(fast))
    assert dict(zip(header, row))['% of peak'] == '200'
    assert dict(zip(header, row))['spread, %'] == '0 !'
    assert 'matrix product' in fast.problems[0]


def test_the_papers_columns_stand_beside():
    first = result()
    object.__setattr__(first.entry, 'paper', {'FPS': 25.0, 'J/image': 4.8})
    found = build_report(first, result('other'))
    rows = report.list_rows(found)
    at = rows[0].index('FPS')
    assert [row[at:at + 2] for row in rows] == [
        ['FPS', "paper's FPS"], ['20.0', '25'], ['20.0', 'n/a']]
    at = rows[0].index('J/image')
    assert rows[1][at:at + 2] == ['n/a', '4.8']
    assert any('TITAN X' in line for line in report.list_remarks(found))


def test_energy_that_failed_is_not_zero():
    bad = result(joules=1.)
    bad.energy = Energy('a counter', 'board', problems=['window 1: reset'])
    found = build_report(bad, no_energy='')
    header, row = report.list_rows(found)
    assert row[header.index('J/image')] == 'n/a'
    assert row[header.index('spread, %')].endswith('!')
    assert any('window 1: reset' in s for s in report.list_remarks(found))


def test_markdown_has_the_conditions():
    lines = report.write_markdown(build_report(result())).splitlines()
    assert len({line.count('|') for line in lines[:3]}) == 1
    for key, value in CONDITIONS.items():
        assert f'- {key}: {value}' in lines


def test_csv_is_not_rounded_and_has_the_conditions():
    text = report.write_csv(build_report(result(ms=30.), result('b')))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row['network'] for row in rows] == ['V1-39', 'b']
    assert float(rows[0]['FPS']) == pytest.approx(1000 / 30, rel=1e-12)
    assert rows[0]['J/image'] == '' and rows[0]['no energy'] == 'no meter'
    assert all(row[key] == str(value) for row in rows
               for key, value in CONDITIONS.items())


def test_json(tmp_path):
    file = tmp_path / 'a.json'
    report.save(build_report(result(joules=4.8)), [str(file)])
    found = json.loads(file.read_text())
    assert found['conditions'] == CONDITIONS
    [one] = found['results']
    assert one['fps'] == pytest.approx(20)
    assert one['multiply_adds_per_second'] == pytest.approx(320e9)
    assert one['share_of_matmul_peak'] == pytest.approx(0.4)
    assert one['energy']['joules_per_image'] == 4.8
    assert one['latency']['repeats'] == [pytest.approx([0.05] * 3)]


@pytest.mark.parametrize('width', [60, 300])
def test_the_table_is_turned_rather_than_cut(width):
    found = build_report(result(), result('R-50', 40.))
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(report.build_view(found, width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    cells = [[c.strip() for c in line.strip('│').split('│')]
             for line in lines if line.startswith('│')]
    if width == 60:
        assert ['FPS', '20.0', '25.0'] in cells
    else:
        assert [row[0] for row in cells] == ['V1-39', 'R-50']


def test_files_that_cannot_be_written(tmp_path):
    taken = tmp_path / 'a.json'
    taken.write_text('precious')
    for file, said in ((taken, 'exists already'),
                       (tmp_path / 'a.xls', 'end the name in'),
                       (taken / 'b.csv', 'choose another place')):
        with pytest.raises(UserError, match=said):
            check_files([str(file)])
    check_files([str(taken)], overwrite=True)
    assert taken.read_text() == 'precious'
    check_files([str(tmp_path / 'new/a.md')])
    assert not (tmp_path / 'new/a.md').exists()


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    savefig = Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, 'savefig', keep)
    return figures


def test_the_papers_figures(drawn, tmp_path):
    # Two points all but the same: their names must not lie on each other.
    results = [result(f'network-{i}', ms, joules, ap) for i, (ms, joules, ap)
               in enumerate([(50., 5., 30.), (50.1, 5.01, 30.1),
                             (90., 9., None)])]
    files = report.plot(build_report(*results, no_energy=''),
                        str(tmp_path / 'new'))
    assert [f.name for f in files] == [
        'fps_energy.png', 'efficiency_energy.png', 'accuracy_fps.png']
    assert all(f.stat().st_size > 5000 for f in files)
    axes = [figure.axes[0] for figure in drawn]
    assert [(a.get_xlabel(), a.get_ylabel()) for a in axes] == [
        ('energy, J/image', 'speed, images/s'),
        ('energy, J/image', 'computation efficiency,\nG multiply-adds/s'),
        ('speed, images/s', 'accuracy (given)')]
    points = [line.get_xydata()[0].tolist() for line in axes[0].lines]
    assert points == [pytest.approx([j, 1000 / ms]) for ms, j in (
        (50., 5.), (50.1, 5.01), (90., 9.))]
    assert len(axes[2].lines) == 2  # one has no accuracy
    for a in axes:
        assert 'Some CPU, 2 threads' in a.get_title()
        boxes = [text.get_window_extent() for text in a.texts]
        assert len(boxes) == len(a.lines)
        assert not any(one.overlaps(other) for i, one in enumerate(boxes)
                       for other in boxes[:i])
        frame = a.figure.bbox
        assert all(frame.contains(*corner) for box in boxes
                   for corner in box.corners())


def test_disturbed_points_are_marked(drawn, tmp_path):
    report.plot(build_report(result(spread=0.9), result('b', 40.)),
                str(tmp_path))
    axes = drawn[0].axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ['V1-39 !', 'b']
    assert [line.get_fillstyle() for line in axes.lines] == ['none', 'full']
    assert '! disturbed' in axes.get_title()


def test_names_stay_inside_the_frame(drawn, tmp_path):
    report.plot(build_report(
        result('retinanet_r50_fpn_1x_coco', 40.),
        result('retinanet_vovnet-39_fpn_1x_coco', 50.)), str(tmp_path))
    axes = drawn[0].axes[0]
    frame = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.contains(box.x0, box.y0)
        assert frame.contains(box.x1, box.y1)


def test_without_energy_efficiency_against_speed(drawn, tmp_path):
    files = report.plot(build_report(result()), str(tmp_path))
    assert [f.name for f in files] == ['efficiency_fps.png']
