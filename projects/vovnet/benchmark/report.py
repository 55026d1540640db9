"""A benchmark's report as tables, files and the paper's figures.

A report is what :meth:`vovnet.benchmark.inference.Report.to_dict` returns, or
the JSON file of it. The plots are the VoVNet paper's Figures 3 and 4
(arXiv:1904.09730).
"""
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from rich.table import Table

from ..analysis.complexity import CONVENTION
from ..deploy.optimize.modes import MODES
from ..utils.errors import UserError
from ..utils.table import (
    NONE,
    Column,
    Report,
    build_terminal_table,
    format_columns,
    format_csv,
    format_page,
    save_report,
)

# Of results that something disturbed or that cannot be trusted.
MARK = ' !'
FPS = Column('FPS', 'fps', '.1f')
MEMORY = Column('peak memory, MB', 'memory.tensors', '.0f', 1e6)
SPREAD = Column('spread, %', 'latency.spread', '.0f', 0.01)
JOULES = Column('J/image', 'energy.joules_per_image', '.3g')
EFFICIENCY = Column('GFLOP/s', 'multiply_adds_per_second', '.1f', 1e9)
COLUMNS = (
    Column('parameters, M', 'params', '.2f', 1e6),
    Column('multiply-adds, G', 'macs', '.2f', 1e9),
    Column('memory access cost, M', 'memory_access_cost', '.1f', 1e6),
    Column('elements, M', 'elements', '.1f', 1e6),
    Column('concat, MB', 'cat_bytes', '.1f', 1e6),
    FPS,
    Column('median, ms', 'latency.median', '.1f', 1e-3),
    Column('p95, ms', 'latency.p95', '.1f', 1e-3),
    Column('of the first', 'of_first', '.2f'),
    Column('difference', 'difference', '.1e'),
    SPREAD,
    MEMORY,
    Column('reserved, MB', 'memory.reserved', '.0f', 1e6),
    Column('system, MB', 'memory.system', '.0f', 1e6),
    JOULES,
    Column('J/image above idle', 'energy.net_of_idle', '.3g'),
    EFFICIENCY,
    Column('% of peak', 'share_of_matmul_peak', '.0f', 0.01),
)
ACCURACY = Column('accuracy (given)', 'accuracy', 'g')

LEGEND = (
    CONVENTION,
    'FPS: images per second, from the median time of a run (of each image, '
    'if there are several); p95: 95 % of the runs are faster; spread: width '
    'of the central 90 % interval of the times, relative to the median.',
    'GFLOP/s: multiply-adds per second, as the VoVNet paper counts; % of '
    "peak: their share of this machine's fastest matrix product, measured in "
    'the same run.',
    'Peak memory: weights, input and the most that torch had allocated at '
    'once. Reserved: what its CUDA allocator took for that. System: growth '
    "of the driver's figure for the GPU or, on a CPU, of the process.",
)


def list_rows(report: Report) -> list[list[str]]:
    """Return the header and a row for each network, as text.

    Columns without any value are left out, except that of the energy.
    """
    results, shown = _list_results(report), (*COLUMNS, ACCURACY)
    columns = [['network', *(result['name'] for result in results)],
               ['input, px', *map(_format_input, results)]]
    measured = format_columns(shown, results)
    papers = format_columns([Column(column.title, f'paper.{column.title}',
                                   '.4g') for column in shown], results)
    for column, cells, printed in zip(shown, measured, papers):
        if column is SPREAD:
            cells = [text + MARK * bool(result['problems'])
                     for text, result in zip(cells, results)]
        if column is JOULES or set(cells) != {NONE}:
            columns.append([column.title, *cells])
        if set(printed) != {NONE}:
            columns.append([f"paper's {column.title}", *printed])
    return [list(row) for row in zip(*columns)]


def _list_results(report: Report) -> list[dict[str, Any]]:
    """Return the results; only modes are compared with the first."""
    return [result if result['mode'] else {**result, 'of_first': None}
            for result in report['results']]


def _format_input(result: Mapping[str, Any]) -> str:
    """Height and width in pixels; the smallest and largest of several."""
    sizes = sorted({tuple(one['shape'][2:]) for one in result['shapes']},
                   key=lambda size: size[0] * size[1])
    if not sizes:
        return NONE
    ends = dict.fromkeys((sizes[0], sizes[-1]))
    return ' to '.join('x'.join(map(str, size)) for size in ends)


def list_remarks(report: Report) -> list[str]:
    """Return what has to be read with the table, a sentence or two each."""
    results = report['results']
    remarks = [*_describe_modes(results), *report['notes']]
    for result in results:
        name = result['name']
        remarks += [f'{name}{MARK} {problem}.'
                    for problem in result['problems']]
        remarks += [f'{name}: {note}' for note in result['notes']]
        if result['detections'] is not None:
            weights = ('' if result['checkpoint'] else
                       ' of random weights, which say nothing of a trained '
                       "detector's")
            remarks.append(f'{name}: NMS left {result["detections"]:.0f} '
                           f'boxes per image{weights}.')
    if report['no_energy']:
        remarks.append(f'Energy: n/a, {report["no_energy"]}.')
    if any(result['paper'] for result in results):
        remarks.append(
            "The paper's figures: whole detectors on a TITAN X (Pascal), CUDA "
            "9.2, cuDNN 7.3, Caffe, trained weights; accuracy is the paper's "
            'too.')
    if energies := [r['energy'] for r in results if r['energy']]:
        energy = energies[0]
        idle = ('' if energy['idle_watts'] is None else
                f'; idle it takes {energy["idle_watts"]:.3g} W')
        remarks.append(f'Energy: {energy["method"]}, of the '
                       f'{energy["scope"]}{idle}.')
    return remarks


def _describe_modes(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say what the modes are, and which is the fastest of each network."""
    results = [result for result in results if result['mode']]
    if not results:
        return
    networks = {}
    for result in results:
        key = result['config'], result['checkpoint']
        networks.setdefault(key, []).append(result)
    for name in dict.fromkeys(result['mode'] for result in results):
        yield f'{name}: {MODES[name].dtype}, {MODES[name].description}.'
    for group in networks.values():
        timed = [result for result in group if result['latency']]
        if timed:
            best = min(timed, key=lambda result: result['latency']['median'])
            yield (f'Fastest: {best["name"]}, '
                   f'{best["latency"]["median"] * 1e3:.1f} ms, outputs within '
                   f'{best["difference"]:.1e} of the plain network.')
    yield ("Of the first: the median as a share of the first row's. "
           'Difference: the largest within an output as a share of the '
           'largest value there, of several outputs the worst. Peak memory '
           'is n/a where oneDNN, compiled code, a CUDA graph or another '
           'runtime holds weights or maps.')


def build_view(report: Report, width: int) -> Table:
    """Build the table for a terminal of ``width`` characters."""
    return build_terminal_table(list_rows(report),
                                report['conditions']['timed'], width)


def write_markdown(report: Report) -> str:
    """Return the table with its conditions, for a page."""
    states = {
        f'{result["name"]}, {when} the windows of energy': energy[when]
        for result in report['results'] if (energy := result['energy'])
        for when in ('before', 'after')}
    return format_page(list_rows(report), report['conditions'] | states,
                       LEGEND, list_remarks(report))


def write_csv(report: Report) -> str:
    """Return a line for each network, with the conditions, not rounded."""
    conditions = report['conditions']
    energy = ('method', 'scope', 'watts', 'idle_watts', 'spread', 'before',
              'after')
    rows = [['network', 'config', 'checkpoint', 'accuracy', 'input',
             *(column.title for column in COLUMNS), 'detections', 'problems',
             *conditions, 'no energy', *(f'energy {name}' for name in energy)]]
    for result in _list_results(report):
        found = result['energy'] or {}
        rows.append([
            result['name'], result['config'], result['checkpoint'] or 'random',
            result['accuracy'], _format_input(result),
            *(column.find_value(result) for column in COLUMNS),
            result['detections'], '; '.join(result['problems']),
            *conditions.values(), report['no_energy'],
            *(found.get(name) for name in energy)])
    return format_csv(rows)


def save(report: Report, files: Sequence[str]) -> None:
    """Write a report into files, each in the format of its suffix."""
    save_report(report, files, write_markdown, write_csv)


def load(files: Sequence[str]) -> dict[str, Any] | None:
    """Read the JSON that an earlier run saved; None if there is none yet.

    Raises:
        UserError: If no file is a JSON, or it cannot be resumed.
    """
    file = next((Path(f) for f in files if f.endswith('.json')), None)
    if file is None:
        raise UserError('--resume: needs a JSON to read; name one with --out')
    if not file.exists():
        return None
    try:
        report = json.loads(file.read_text())
        if all('model_crc32' in result for result in report['results']):
            return report
    except (ValueError, TypeError, KeyError):
        pass
    raise UserError(f'--resume: {file} is not a report of this tool; choose '
                    'another --out')


def plot(report: Report, folder: str) -> list[Path]:
    """Draw the paper's Figures 3 and 4 for the networks measured.

    Pictures without data, such as those of energy without a meter, are left
    out. Without energy, efficiency is drawn against speed.
    """
    speed = 'speed, images/s', FPS
    efficiency = 'computation efficiency,\nG multiply-adds/s', EFFICIENCY
    energy = 'energy, J/image', JOULES
    accuracy = 'accuracy (given)', ACCURACY
    wanted = [('fps_energy', energy, speed),
              ('efficiency_energy', energy, efficiency),
              ('accuracy_fps', speed, accuracy)]
    if report['no_energy']:
        wanted.append(('efficiency_fps', speed, efficiency))
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = []
    for name, (x_label, x), (y_label, y) in wanted:
        points = [(x.find_value(result), y.find_value(result),
                   result['name'] + MARK * bool(result['problems']))
                  for result in report['results']]
        points = [point for point in points if None not in point]
        if not points:
            continue
        figure = Figure(figsize=(6.4, 4.8), dpi=150, layout='constrained')
        axes = figure.subplots()
        _scatter(axes, points)
        axes.set(xlabel=x_label, ylabel=y_label)
        title = _describe_conditions(report['conditions'])
        if any(name.endswith(MARK) for *_, name in points):
            title += '\n! disturbed, or not to be trusted: see the table'
        axes.set_title(title, fontsize=8)
        files.append(Path(folder, f'{name}.png'))
        figure.savefig(files[-1])
    return files


def _scatter(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Draw points with their names, which stay in the frame and apart."""
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
    beside = [((side * distance, 0), 'left' if side > 0 else 'right', 'center')
              for distance in (8, 16) for side in (1, -1)]
    above = [((0, side * distance), 'center', 'center')
             for distance in (14, 26, 38, 50) for side in (1, -1)]
    for x, y, name in sorted(points):
        for offset, ha, va in beside + above:
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


def _describe_conditions(conditions: Mapping[str, Any]) -> str:
    """Return the conditions that a picture must not be without."""
    machine = conditions.get('GPU') or (
        f'{conditions["processor"]}, {conditions["threads"]} threads')
    return (f'{conditions["timed"]}; {conditions["input"]}, batch '
            f'{conditions["batch"]}\n{machine}, {conditions["dtype"]}, '
            f'torch {conditions["torch"]}')
