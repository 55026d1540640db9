"""Results of ``make gpu`` as a page: measured, the paper's, their ratio."""
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..benchmark.report import EFFICIENCY, FPS, JOULES, MEMORY
from ..deploy.optimize.modes import MODES
from ..utils.errors import UserError
from ..utils.table import (
    NONE,
    Column,
    format_columns,
    format_markdown,
    format_number,
)
from .tables import load_rows

DRY = '**A dry run on a CPU, which measures nothing.** '

# What `make demo` ends with on a CPU, as the README has it: mAP, mAP50.
ON_CPU = 0.687, 0.878
# Ratios that are closer than this to the paper's agree with it.
CLOSE = 1.15

HEAD = '# On a GPU\n\n'
NOTHING = HEAD + (
    'Nothing has been measured on a GPU yet: `make gpu`, then `make gpu-page` '
    'on a machine that has one, fills this page.\n\n')
HOW = '''## How it is made

`make gpu` on a machine with one NVIDIA GPU runs steps of a minute or two, each
in a process of its own: checks first (recomputation, every way to run
inference, operators, the demo trained to its mAP), then the paper's tables
with energy, then training memory. It ends after `GPU_SECONDS=530`; run again,
it goes on. The results are in `work_dirs/gpu/results`, a few MB with all logs;
that folder is all that the next run needs, also on another machine. `make
gpu-page` turns it into this page.

Nothing is set up: it takes the Python of `make setup` or, with `make gpu
PYTHON=python3`, one that has torch. Where no registry can be reached, `make
gpu-wheels` (`WHEELS_PYTHON=3.12`) on a machine that reaches one fetches what
such a Python lacks, 12 MB, into `.wheels`, to be copied with the checkout.
`make gpu DEVICE=cpu` is the dry run with the smallest sizes.
'''


# Figures of networks by name, in the columns FPS and J/image.
Figures = Mapping[str, Mapping[str, float | None]]


def make_page(folder: str | Path) -> tuple[str, list[tuple[Path, str]]]:
    """Turn a folder of results into a page.

    Args:
        folder: What ``make gpu`` left; it may be missing.

    Returns:
        Markdown, and pictures with their names below ``images/``.

    Raises:
        UserError: If a file in the folder cannot be read.
    """
    folder = Path(folder)
    steps = _read(folder, 'steps')
    if not steps:
        return NOTHING + HOW, []
    pictures = []
    sections = [
        _write_machine(_read(folder, 'facts').get('facts', {}),
                       _read(folder, 'table4')),
        _write_checks(folder, steps)]
    for name, text in (('table4', _write_table4(folder)),
                       ('batch64', _write_backbones(folder)),
                       ('table2', _write_lightweight(folder))):
        file = folder / name / 'fps_energy.png'
        if text and file.exists():
            pictures.append((file, f'gpu_{name}.png'))
            text += f'\n![Speed against energy](images/gpu_{name}.png)\n'
        sections.append(text)
    sections += [_write_training(folder), _write_steps(steps)]
    return HEAD + '\n'.join(filter(None, sections)) + '\n' + HOW, pictures


def _read(folder: Path, name: str) -> dict[str, Any]:
    file = folder / f'{name}.json'
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f'{file}: cannot be read ({error}); remove it and run '
                        'make gpu again') from error


def _read_log(folder: Path, name: str) -> str:
    file = folder / 'logs' / f'{name}.log'
    return file.read_text(errors='replace') if file.exists() else ''


def _write_table(rows: Sequence[Sequence[str]]) -> str:
    return format_markdown(rows) + '\n'


def _write_list(lines: Sequence[str]) -> str:
    return ''.join(f'- {line}\n' for line in lines)


def _write_conditions(report: Mapping[str, Any], *keys: str) -> str:
    conditions = report['conditions']
    return '; '.join(f'{key}: {conditions[key]}' for key in (
        'timed', 'input', 'batch', 'dtype', 'memory format', *keys, 'date')
        if key in conditions) + '.\n'


# -- The machine and the checks ----------------------------------------------


def _write_machine(facts: Mapping[str, Any],
                   report: Mapping[str, Any]) -> str:
    meter = facts.get('meter')
    state = meter if isinstance(meter, dict) else {}
    words = [facts.get('GPU') or facts.get('processor', '?')]
    if state.get('driver'):
        words.append(f'driver {state["driver"]}')
    if state.get('power_limit_w'):
        words.append(f'power limit {state["power_limit_w"]:g} W')
    words += [f'{key} {facts[key]}' for key in (
        'CUDA', 'cuDNN', 'torch', 'python') if key in facts]
    text = DRY * ('GPU' not in facts) + ', '.join(words)
    if date := report.get('conditions', {}).get('date'):
        text += f'; {date}'
    text += '.'
    at_work = [result['energy']['after']
               for result in report.get('results', []) if result['energy']]
    ranges = []
    for name, key, unit in (('sm clock', 'sm_clock_mhz', 'MHz'),
                            ('memory clock', 'memory_clock_mhz', 'MHz'),
                            ('temperature', 'temperature_c', '°C')):
        values = [s[key] for s in at_work if s.get(key) is not None]
        if values:
            ranges.append(f'{name} {min(values)} to {max(values)} {unit}')
    if ranges:
        text += f' At work, in Table 4: {"; ".join(ranges)}.'
    if isinstance(meter, str):
        text += f' Energy: {NONE}, {meter}.'
    return text + '\n'


def _write_checks(folder: Path, steps: Mapping[str, Any]) -> str:
    checks = {}
    for name in 'core', 'modes', 'compiled', 'ddp':
        checks |= _read(folder, name)
    compiled = {name: (f'`{name}` against eager', _describe_modes)
                for name, mode in MODES.items() if mode.compile}
    descriptions = dict(
        recompute=('`with_cp` against plain training', _describe_recompute),
        modes=('inference modes against eager', _describe_modes),
        **compiled,
        synchronization=('timed code waits for nothing', _describe_waits),
        memory=('memory, the same network three times', _describe_memory),
        ddp=('DDP over NCCL, all gradients',
             lambda found: ', '.join(found['gradients'])),
        meter=('energy counter beside polled power', _describe_meter))
    rows = []
    for name, (title, describe) in descriptions.items():
        if found := checks.get(name):
            rows.append((title, found.get('error') or describe(found),
                         found['ok']))
    if summary := re.findall(r'^=*\s*(\d+ (?:passed|failed).*?)\s*=*$',
                             _read_log(folder, 'operators'), re.M):
        rows.append(('operators, CPU and GPU', summary[-1],
                     steps.get('operators', {}).get('status') == 'done'))
    for name, title in (('demo', 'the demo trained'),
                        ('optimized', 'the demo tested, optimized')):
        if found := re.findall(r'coco/bbox_mAP: ([\d.]+)\s+'
                               r'coco/bbox_mAP_50: ([\d.]+)',
                               _read_log(folder, name)):
            both, at_50 = map(float, found[-1])
            rows.append((title, f'mAP {both:.3f}, mAP50 {at_50:.3f} (on a CPU '
                         f'{ON_CPU[0]}, {ON_CPU[1]})',
                         abs(both - ON_CPU[0]) < 0.03))
    if not rows:
        return ''
    text = '## Is it right\n\n' + _write_table(
        [('check', 'found', 'right'),
         *((*row, 'yes' if ok else '**no**') for *row, ok in rows)])
    failures = [line for found in checks.values()
                for line in found.get('failures', [])]
    if failures:
        text += '\nNot right:\n\n' + _write_list(failures)
    return text


def _describe_recompute(found: Mapping[str, Any]) -> str:
    worst = ', '.join(f'{mode} {ratio:.2f}' for mode, (ratio, _) in
                      found['worst_error_over_plain'].items())
    return (f'{found["cases"]} settings, {len(found["failures"])} fail; '
            f'largest error over that of plain training: {worst}')


def _describe_modes(found: Mapping[str, Any]) -> str:
    tried = {name: one for name, one in found['modes'].items()
             if isinstance(one, dict)}
    return (f'{len(tried)} tried: {len(found["failures"])} fail; ' + ', '.join(
        f'{name} {max(one["differences"]):.1e}'
        for name, one in tried.items()))


def _describe_waits(found: Mapping[str, Any]) -> str:
    return ', '.join(f'{name}: {reason or "no wait"}'
                     for name, reason in found['waits'].items())


def _describe_memory(found: Mapping[str, Any]) -> str:
    sizes = [one['system' if one['reserved'] else 'tensors']
             for one in found['memory']]
    return ', '.join(f'{size / 1e6:.0f} MB' for size in sizes)


def _describe_meter(found: Mapping[str, Any]) -> str:
    if 'none' in found:
        return found['none']
    return (f'{found["busy_watts"]:.0f} W counted, '
            f'{found["polled_watts"]:.0f} W polled, idle '
            f'{found["idle_watts"]:.0f} W, a step each '
            f'{found["seconds_between_steps"] * 1e3:.0f} ms')


# -- Measured and printed figures --------------------------------------------


def _get_network(result: Mapping[str, Any]) -> str:
    """Return the name of a result without its mode."""
    return result['name'].removesuffix(f', {result["mode"]}')


def _list_figures(report: Mapping[str, Any]) -> dict[str, dict]:
    return {_get_network(result): {column.title: column.find_value(result)
                                   for column in (FPS, JOULES)}
            for result in report.get('results', [])}


def _load_printed(*tables: str) -> dict[str, dict[str, float]]:
    return {row.name: row.figures for row in load_rows(tables)}


def compare(top: str, other: str, found: Figures, printed: Figures
            ) -> Iterator[tuple[str, float | None, float | None]]:
    """Compare two networks, here and in the paper.

    Args:
        top: The network that the paper proposes.
        other: One that it is compared with.
        found: Measured figures.
        printed: The paper's.

    Yields:
        'FPS' and 'J/image', and by how many times ``top`` is better here and
        there: more images/s, less energy.
    """
    for what in FPS.title, JOULES.title:
        ratios = []
        for figures in found, printed:
            a, b = (figures.get(name, {}).get(what) for name in (top, other))
            if a is None or b is None:
                ratios.append(None)
            else:
                ratios.append(a / b if what == FPS.title else b / a)
        yield what, *ratios


def judge(here: float, there: float) -> str:
    """Say in words how a ratio agrees with the paper's.

    Args:
        here: Measured; above 1 is better.
        there: The paper's.
    """
    if (here - 1) * (there - 1) < 0:
        return 'the other way round here'
    if 1 / CLOSE <= here / there <= CLOSE:
        return 'as in the paper'
    more = (here > there) == (there > 1)
    return f'the same way, {"more" if more else "less"} than in the paper'


def _write_ratios(top: str, others: Sequence[str], found: Figures,
                  printed: Figures, where: str) -> str:
    """Write a table of ratios, and a sentence on each that is in the paper."""
    rows = [[f'{top} over', 'FPS', "paper's FPS", 'J/image', "paper's J/image"
             ]]
    lines = []
    for other in others:
        row = [other]
        for what, here, there in compare(top, other, found, printed):
            row += [format_number(here, '.2f'), format_number(there, '.2f')]
            if here is None or there is None:
                continue
            text = (f'{top} is {here:.2f} times as fast as {other}'
                    if what == FPS.title else f'{other} takes {here:.2f} '
                    f'times the energy of {top}')
            lines.append(f'{where}: {text}, in the paper {there:.2f}: '
                         f'{judge(here, there)}.')
        rows.append(row)
    return _write_table(rows) + '\n' + _write_list(lines)


def _write_ratios_of_settings(top: str, others: Sequence[str],
                              settings: Mapping[str, Figures],
                              printed: Figures, what: str) -> str:
    """Write one ratio in several settings, and a sentence on each network."""
    rows = [[f'{what}, {top} over', *settings, "the paper's detectors"]]
    lines = []
    for other in others:
        row, verdicts = [other], {}
        for title, figures in settings.items():
            ratios = {name: ratio for name, *ratio in compare(
                top, other, figures, printed)}
            here, there = ratios[what]
            row.append(format_number(here, '.2f'))
            if here is not None and there is not None:
                verdicts.setdefault(judge(here, there), []).append(title)
        rows.append([*row, format_number(there, '.2f')])
        if verdicts:
            lines.append(f'{other}: ' + '; '.join(
                f'{verdict} at {" and ".join(titles)}'
                for verdict, titles in verdicts.items()) + '.')
    return _write_table(rows) + '\n' + _write_list(lines)


def _write_measured(report: Mapping[str, Any], printed: Figures) -> str:
    """Write what was measured, the paper's figures, and their ratio."""
    rows = [['network', 'FPS', "paper's FPS", 'ratio', 'J/image',
             "paper's J/image", 'ratio', 'GFLOP/s', 'peak memory, MB', '!']]
    notes = []
    for result in report['results']:
        row = [result['name']]
        for column in FPS, JOULES:
            here = column.find_value(result)
            there = printed.get(_get_network(result), {}).get(column.title)
            row += [format_number(here, column.form), format_number(there),
                    format_number(here / there if here and there else None)]
        rows.append([*row, format_number(EFFICIENCY.find_value(result), '.0f'),
                     format_number(MEMORY.find_value(result), '.0f'),
                     '!' * bool(result['problems'])])
        notes += [f'{result["name"]}: {problem}.'
                  for problem in result['problems']]
    text = _write_table(rows) + '\n' + _write_conditions(report, 'repeats')
    return text + ('\n' + _write_list(notes) if notes else '')


BASELINES = 'DenseNet-201', 'DenseNet-161', 'ResNet-101', 'ResNet-50'


def _write_table4(folder: Path) -> str:
    printed, text = _load_printed('table4'), ''
    for name in 'table4', 'table4_graph':
        report = _read(folder, name)
        if not report.get('results'):
            continue
        mode = report['results'][0]['mode']
        kind = (f'{mode}: {MODES[mode].description}' if mode
                else 'eager, as there')
        text += (f'\n### {kind[0].upper()}{kind[1:]}\n\n'
                 + _write_measured(report, printed) + '\n' + _write_ratios(
                     'VoVNet-39', BASELINES, _list_figures(report), printed,
                     f'RefineDet320, {mode or "eager"}'))
    return text and '## Table 4: RefineDet, batch 1\n' + text


def _write_lightweight(folder: Path) -> str:
    report, printed = _read(folder, 'table2'), _load_printed(
        'table2', 'table3')
    if not report.get('results'):
        return ''
    others = ('DSOD300 DenseNet-67', 'Pelee304 PeleeNet', 'SSD300 MobileNet',
              '+ bottleneck')
    return ('## Tables 2 and 3: lightweight detectors, batch 1\n\n'
            + _write_measured(report, printed) + '\n' + _write_ratios(
                'DSOD300 VoVNet-27-slim', others, _list_figures(report),
                printed, 'Lightweight'))


def _write_backbones(folder: Path) -> str:
    """Six backbones: batch 1 and 64, eager and graphs, fp32 and bf16."""
    printed, settings = _load_printed('table4'), {}
    for name in 'batch1', 'batch64_fp32', 'batch64':
        report = _read(folder, name)
        for result in report.get('results', []):
            conditions = report['conditions']
            bf16 = 'bf16' * conditions['dtype'].startswith('bf16')
            title = (f'batch {conditions["batch"]}, '
                     f'{result["mode"] or bf16 or "eager"}')
            settings.setdefault(title, {})[_get_network(result)] = {
                column.title: column.find_value(result)
                for column in (FPS, JOULES)}
    if not settings:
        return ''
    networks = list(dict.fromkeys(
        name for figures in settings.values() for name in figures))
    with_energy = {title: figures for title, figures in settings.items()
                   if any(one[JOULES.title] for one in figures.values())}
    tables, ratios = [], []
    for what, form, columns in ((FPS.title, '.0f', settings),
                                (JOULES.title, '.3g', with_energy)):
        if columns:
            tables.append(_write_table([[f'backbone, {what}', *columns], *(
                [name, *(format_number(figures.get(name, {}).get(what), form)
                         for figures in columns.values())]
                for name in networks)]))
            ratios.append(_write_ratios_of_settings(
                'VoVNet-39', BASELINES, columns, printed, what))
    return '\n'.join([
        '## Backbones alone\n', *tables,
        "VoVNet-39 over each, in speed and in saving; the paper's are whole "
        'detectors at batch 1, on a TITAN X.\n', *ratios])


def _write_training(folder: Path) -> str:
    report = _read(folder, 'training')
    if not report.get('results'):
        return ''
    columns = (MEMORY, Column("of timm's", 'memory_ratio', '.2f'),
               Column('time, ms', 'latency.median', '.1f', 1e-3),
               Column("of timm's", 'time_ratio', '.2f'))
    names = [result['name'] for result in report['results']]
    rows = [['network', *(column.title for column in columns)],
            *zip(names, *format_columns(columns, report['results']))]
    return ('## Training: memory and time beside timm\n\n'
            + _write_table(rows) + '\n' + _write_conditions(report, 'rounds'))


def _write_steps(steps: Mapping[str, Any]) -> str:
    rows = [['step', 'status', 's', 'what it said last']]
    rows += [[name, one['status'], f'{one["seconds"]:.0f}',
              one['last'].replace('|', '/')[:160]]
             for name, one in steps.items()]
    return '## Steps\n\n' + _write_table(rows)
