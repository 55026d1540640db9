"""A benchmark's results as tables, files and the paper's figures.

The plots are the VoVNet paper's Figures 3 and 4 (arXiv:1904.09730): speed and
computation efficiency against energy per image, accuracy against speed.
Drawn with matplotlib.
"""
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from rich.table import Table

from ..analysis.complexity import CONVENTION
from ..deploy.optimize.modes import MODES
from ..utils.atomic_file import WholeFileBackend
from ..utils.errors import UserError
from .inference import Report, Result

MARK, NONE = ' !', 'n/a'
FORMATS = ('.json', '.csv', '.md')


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        title: With its unit.
        value: Of a result; None is shown as n/a.
        form: How a number is written.
    """
    title: str
    value: Callable[[Result], float | None]
    form: str


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value / scale


def _of(part: Any, name: str, scale: float) -> float | None:
    return _scaled(part and getattr(part, name), scale)


COLUMNS = (
    Column('parameters, M', lambda r: _of(r.cost, 'params', 1e6), '.2f'),
    Column('multiply-adds, G', lambda r: _of(r.cost, 'macs', 1e9), '.2f'),
    Column('memory access cost, M',
           lambda r: _of(r.cost, 'memory_access_cost', 1e6), '.1f'),
    Column('elements, M', lambda r: _of(r.cost, 'elements', 1e6), '.1f'),
    Column('concat, MB', lambda r: _of(r.cost, 'cat_bytes', 1e6), '.1f'),
    Column('FPS', lambda r: r.fps, '.1f'),
    Column('median, ms', lambda r: _of(r.latency, 'median', 1e-3), '.1f'),
    Column('p95, ms', lambda r: _of(r.latency, 'p95', 1e-3), '.1f'),
    Column('of the first', lambda r: r.of_first if r.entry.mode else None,
           '.2f'),
    Column('difference', lambda r: r.difference, '.1e'),
    Column('spread, %', lambda r: _of(r.latency, 'spread', 0.01), '.0f'),
    Column('peak memory, MB', lambda r: _of(r.memory, 'tensors', 1e6),
           '.0f'),
    Column('reserved, MB', lambda r: _of(r.memory, 'reserved', 1e6), '.0f'),
    Column('system, MB', lambda r: _of(r.memory, 'system', 1e6), '.0f'),
    Column('J/image', lambda r: r.energy and r.energy.joules_per_image,
           '.3g'),
    Column('J/image above idle', lambda r: r.energy and r.energy.net_of_idle,
           '.3g'),
    Column('GFLOP/s', lambda r: _scaled(r.efficiency, 1e9), '.1f'),
    Column('% of peak', lambda r: _scaled(r.share, 0.01), '.0f'),
)

LEGEND = (
    CONVENTION,
    'FPS: images per second, from the median of the time that one run takes '
    '(of each image, if there are several); '
    'p95: 95 % of the runs are faster; spread: the middle 90 % of the times '
    'differ by so much of the median.',
    'GFLOP/s: multiply-adds per second, as the VoVNet paper counts; % of '
    "peak: their share of this machine's fastest matrix product, measured in "
    'the same run.',
    'Peak memory: weights, input and the most that torch had allocated at '
    'once. Reserved: what its CUDA allocator took for that. System: by how '
    "much the driver's figure for the GPU grew or, on a CPU, the process.",
)


def cells(report: Report) -> list[list[str]]:
    """The table as text.

    Columns that no result has are left out, except energy's, which is n/a.

    Args:
        report (Report): Results.

    Returns:
        list[list[str]]: A header, and a row for each network. Results that
        must not be trusted are marked.
    """
    results, columns = report.results, []
    for title, value, form in COLUMNS:
        column = [_written(value(result), form) for result in results]
        if title == 'spread, %':
            column = [text + MARK * bool(result.problems)
                      for text, result in zip(column, results)]
        if title == 'J/image' or set(column) != {NONE}:
            columns.append([title, *column])
        papers = [result.entry.paper.get(title) for result in results]
        if any(paper is not None for paper in papers):
            columns.append([f"paper's {title}",
                            *(_written(paper, '.4g') for paper in papers)])
    accuracies = [result.entry.accuracy for result in results]
    if any(accuracy is not None for accuracy in accuracies):
        columns.append(['accuracy (given)',
                        *(_written(value, 'g') for value in accuracies)])
    names = ['network', *(result.entry.name for result in results)]
    inputs = ['input, px', *(result.input for result in results)]
    return [list(row) for row in zip(names, inputs, *columns)]


def _modes(report: Report) -> list[str]:
    """What the modes are, and which is the fastest of each network."""
    found, networks = [], {}
    for result in report.results:
        if result.entry.mode:
            key = result.entry.cfg.filename, result.entry.checkpoint
            networks.setdefault(key, []).append(result)
    for mode in dict.fromkeys(r.entry.mode for r in report.results):
        if mode:
            found.append(f'{mode}: {MODES[mode].dtype}, '
                         f'{MODES[mode].description}.')
    for results in networks.values():
        results = [result for result in results if result.latency]
        if not results:
            continue
        best = min(results, key=lambda result: result.latency.median)
        found.append(f'Fastest: {best.entry.name}, '
                     f'{best.latency.median * 1e3:.1f} ms, outputs within '
                     f'{best.difference:.1e} of the plain network.')
    if networks:
        found.append(
            'Of the first: the median as a share of the first row\'s. '
            'Difference: the largest within an output as a share of the '
            'largest value there, of several outputs the worst. Peak memory '
            'is n/a where oneDNN, compiled code, a CUDA graph or another '
            'runtime holds weights or maps.')
    return found


def _written(value: float | None, form: str) -> str:
    return NONE if value is None else f'{value:{form}}'


def remarks(report: Report) -> list[str]:
    """What has to be read with the table.

    Args:
        report (Report): Results.

    Returns:
        list[str]: A sentence or two each.
    """
    found = [*_modes(report), *report.notes]
    for result in report.results:
        name = result.entry.name
        found += [f'{name}{MARK} {problem}.' for problem in result.problems]
        found += [f'{name}: {note}' for note in result.notes]
        if result.detections is not None:
            weights = ('' if result.entry.checkpoint else
                       ' of random weights, which say nothing of a trained '
                       "detector's")
            found.append(f'{name}: NMS left {result.detections:.0f} boxes '
                         f'per image{weights}.')
    if report.no_energy:
        found.append(f'Energy: n/a, {report.no_energy}.')
    if any(result.entry.paper for result in report.results):
        found.append(
            "The paper's figures: whole detectors on a TITAN X (Pascal), CUDA "
            '9.2, cuDNN 7.3, Caffe, trained weights; accuracy is the paper\'s '
            'too.')
    for energy in [r.energy for r in report.results if r.energy][:1]:
        idle = ('' if energy.idle_watts is None else
                f'; idle it takes {energy.idle_watts:.3g} W')
        found.append(f'Energy: {energy.method}, of the {energy.scope}{idle}.')
    return found


def terminal_table(report: Report, width: int) -> Table:
    """The table for a terminal: turned if it is too wide.

    Args:
        report (Report): Results.
        width (int): Of the terminal, characters.

    Returns:
        Table: Networks in rows or, where they do not fit, in columns.
    """
    rows = cells(report)
    wide = sum(3 + max(map(len, (*wrap(column[0], 14), *column[1:])))
               for column in zip(*rows))
    if wide > width:
        rows = list(zip(*rows))
    table = Table(title=report.conditions['timed'])
    for i, title in enumerate(rows[0]):
        table.add_column('\n'.join(wrap(title, 14)), overflow='fold',
                         justify='right' if i else 'left')
    for row in rows[1:]:
        table.add_row(*row)
    return table


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, its first column to the left, the others to the right.

    Args:
        rows (Sequence[Sequence[str]]): The header first.

    Returns:
        list[str]: Markdown.
    """
    header, *body = rows
    return ['| ' + ' | '.join(row) + ' |' for row in (
        header, ['---', *['---:'] * (len(header) - 1)], *body)]


def markdown(report: Report) -> str:
    """The table with its conditions, for a page.

    Args:
        report (Report): Results.

    Returns:
        str: Markdown.
    """
    lines = markdown_table(cells(report))
    conditions = [f'- {key}: {value}'
                  for key, value in report.conditions.items()]
    conditions += [
        f'- {result.entry.name}, {when} the windows of energy: {state}'
        for result in report.results if result.energy for when, state in (
            ('before', result.energy.before), ('after', result.energy.after))]
    return '\n'.join([*lines, '', *remarks(report), '', *conditions, '',
                      *LEGEND, ''])


def to_csv(report: Report) -> str:
    """One line for each network, its conditions in it.

    Args:
        report (Report): Results.

    Returns:
        str: CSV with a header; numbers are not rounded.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    energy = ('method', 'scope', 'watts', 'idle_watts', 'spread', 'before',
              'after')
    writer.writerow(['network', 'config', 'checkpoint', 'accuracy', 'input',
                     *(column.title for column in COLUMNS), 'detections',
                     'problems', *report.conditions, 'no energy',
                     *(f'energy {name}' for name in energy)])
    for r in report.results:
        writer.writerow([
            r.entry.name, r.entry.cfg.filename, r.entry.checkpoint or 'random',
            '' if r.entry.accuracy is None else r.entry.accuracy, r.input,
            *('' if (value := column.value(r)) is None else value
              for column in COLUMNS),
            '' if r.detections is None else r.detections,
            '; '.join(r.problems), *report.conditions.values(),
            report.no_energy,
            *(getattr(r.energy, name, '') for name in energy)])
    return out.getvalue()


def save(report: Report, files: Sequence[str]) -> None:
    """Write results.

    Args:
        report (Report): Results.
        files (Sequence[str]): The suffix says what is written.
    """
    for file in map(Path, files):
        text = {'.json': lambda: json.dumps(report.to_dict()),
                '.csv': lambda: to_csv(report),
                '.md': lambda: markdown(report)}[file.suffix]()
        # Whole or not at all, since it is written again and again.
        WholeFileBackend().put(text.encode(), file)


def load(files: Sequence[str]) -> dict[str, Any] | None:
    """Read what an earlier run saved.

    Args:
        files (Sequence[str]): Of ``--out``; a JSON must be among them.

    Returns:
        dict | None: Of :meth:`~vovnet.benchmark.inference.Report.to_dict`;
        None if there is no such file yet.

    Raises:
        UserError: If none is a JSON, or it is no report that can be resumed.
    """
    file = next((Path(f) for f in files if f.endswith('.json')), None)
    if file is None:
        raise UserError('--resume: reads a JSON; name one with --out')
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text())
        if all('model_crc32' in one for one in found['results']):
            return found
    except (ValueError, TypeError, KeyError):
        pass
    raise UserError(f'--resume: {file} is no report of this tool; choose '
                    'another --out')


def check_files(files: Sequence[str], overwrite: bool = False,
                option: str = '--out') -> None:
    """Refuse results' files before anything is measured.

    Args:
        files (Sequence[str]): Their folders are made.
        overwrite (bool): Whether one may be there already.
        option (str): How the command line names them.

    Raises:
        UserError: If a name does not end in one of :data:`FORMATS`, or a file
            is there or cannot be written.
    """
    for file in map(Path, files):
        if file.suffix not in FORMATS:
            raise UserError(f'{option} {file}: end the name in '
                            f'{", ".join(FORMATS)}')
        if file.exists() and not overwrite:
            raise UserError(f'{option} {file}: is there already; choose '
                            'another name, or add --overwrite')
        there = file.exists()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, 'a'):
                pass
            if not there:
                file.unlink()
        except OSError as error:
            raise UserError(f'{option} {file}: {error.strerror}; choose '
                            'another place') from error


def plot(report: Report, folder: str) -> list[Path]:
    """Draw the paper's Figures 3 and 4 for the networks measured.

    Args:
        report (Report): Results.
        folder (str): Where; it is made.

    Returns:
        list[Path]: The pictures that could be drawn: those with energy need
        a meter, those with accuracy an accuracy. Without energy, efficiency
        is drawn against speed.
    """
    speed = 'speed, images/s', lambda r: r.fps
    efficiency = ('computation efficiency,\nG multiply-adds/s',
                  lambda r: _scaled(r.efficiency, 1e9))
    energy = ('energy, J/image', lambda r: r.energy
              and r.energy.joules_per_image)
    accuracy = 'accuracy (given)', lambda r: r.entry.accuracy
    wanted = [('fps_energy', energy, speed),
              ('efficiency_energy', energy, efficiency),
              ('accuracy_fps', speed, accuracy)]
    if report.no_energy:
        wanted.append(('efficiency_fps', speed, efficiency))
    Path(folder).mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, x, y in wanted:
        points = [(x[1](r), y[1](r), r.entry.name + MARK * bool(r.problems))
                  for r in report.results]
        points = [p for p in points if None not in p]
        if not points:
            continue
        figure = Figure(figsize=(6.4, 4.8), dpi=150, layout='constrained')
        axes = figure.subplots()
        _scatter(axes, points)
        axes.set_xlabel(x[0])
        axes.set_ylabel(y[0])
        title = _where(report.conditions)
        if any(name.endswith(MARK) for *_, name in points):
            title += '\n! disturbed, or not to be trusted: see the table'
        axes.set_title(title, fontsize=8)
        drawn.append(Path(folder, f'{name}.png'))
        figure.savefig(drawn[-1])
    return drawn


def _scatter(axes: Any, points: Sequence[tuple]) -> None:
    """Points with their names, inside the frame and not on each other."""
    for x, y, name in points:
        axes.plot(x, y, 'o', markersize=8,
                  fillstyle='none' if name.endswith(MARK) else 'full')
    axes.margins(0.2)
    axes.set_xlim(left=max(0, axes.get_xlim()[0]))
    axes.grid(alpha=0.3)
    axes.figure.draw_without_rendering()
    frame = axes.get_window_extent()
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in
             axes.transData.transform([point[:2] for point in points])]
    for x, y, name in sorted(points):
        places = [
            ((side * distance, 0), 'left' if side > 0 else 'right', 'center')
            for distance in (8, 16) for side in (1, -1)] + [
            ((0, side * distance), 'center', 'center')
            for distance in (14, 26, 38, 50) for side in (1, -1)]
        for offset, ha, va in places:
            label = axes.annotate(name, (x, y), offset, ha=ha, va=va,
                                  textcoords='offset points', fontsize=9)
            box = label.get_window_extent()
            if (frame.contains(box.x0, box.y0)
                    and frame.contains(box.x1, box.y1)
                    and not any(box.overlaps(other) for other in taken)):
                break
            label.remove()
        else:
            label = axes.annotate(name, (x, y), (8, 4), fontsize=9,
                                  textcoords='offset points')
        taken.append(label.get_window_extent())


def _where(conditions: dict[str, Any]) -> str:
    """The conditions that a picture must not be without, in two lines."""
    machine = conditions.get('GPU') or (
        f'{conditions["processor"]}, {conditions["threads"]} threads')
    return (f'{conditions["timed"]}; {conditions["input"]}, batch '
            f'{conditions["batch"]}\n{machine}, {conditions["dtype"]}, '
            f'torch {conditions["torch"]}')
