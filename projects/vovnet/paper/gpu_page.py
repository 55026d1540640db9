"""What ``make gpu`` found, as a page: measured, the paper's, their ratio."""
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..benchmark.report import NONE, markdown_table
from ..deploy.optimize.modes import MODES
from ..utils.errors import UserError
from . import tables as paper

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


def make_page(folder: str | Path) -> tuple[str, list[tuple[Path, str]]]:
    """Turn a folder of results into a page.

    Args:
        folder (str | Path): What ``make gpu`` left; it need not be there.

    Returns:
        tuple: Markdown, and pictures with their names below ``images/``.

    Raises:
        UserError: If a file there cannot be read.
    """
    folder = Path(folder)
    steps = _read(folder, 'steps')
    if not steps:
        return NOTHING + HOW, []
    pictures = [(file, f'gpu_{name}.png') for name in (
        'table4', 'batch64', 'table2')
        if (file := folder / name / 'fps_energy.png').exists()]
    shown = {picture: f'![Speed against energy](images/{picture})'
             for _, picture in pictures}
    sections = [
        _machine(_read(folder, 'facts').get('facts', {}), _read(
            folder, 'table4')),
        _checks(folder, steps), _table4(folder, shown),
        _backbones(folder, shown), _lightweight(folder, shown),
        _training(folder), _steps(steps)]
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


def _log(folder: Path, name: str) -> str:
    file = folder / 'logs' / f'{name}.log'
    return file.read_text(errors='replace') if file.exists() else ''


def _table(rows: Sequence[Sequence[str]]) -> str:
    return '\n'.join(markdown_table(rows)) + '\n'


def _number(value: float | None, form: str = '.3g') -> str:
    return NONE if value is None else f'{value:{form}}'


# -- The machine and the checks ----------------------------------------------


def _machine(facts: dict[str, Any], report: dict[str, Any]) -> str:
    meter = facts.get('meter')
    state = meter if isinstance(meter, dict) else {}
    date = report.get('conditions', {}).get('date', '')
    energy = [result['energy'] for result in report.get('results', [])
              if result.get('energy')]
    at_work = [e['after'] for e in energy]
    ranges = []
    for key, unit in (('sm_clock_mhz', 'MHz'), ('memory_clock_mhz', 'MHz'),
                      ('temperature_c', '°C')):
        values = [s[key] for s in at_work if s.get(key) is not None]
        if values:
            ranges.append(f'{key.rpartition("_")[0].replace("_", " ")} '
                          f'{min(values)} to {max(values)} {unit}')
    first = [f'{facts.get("GPU") or facts.get("processor", "?")}']
    if state.get('driver'):
        first.append(f'driver {state["driver"]}')
    if state.get('power_limit_w'):
        first.append(f'power limit {state["power_limit_w"]:g} W')
    first += [f'{key} {facts[key]}' for key in (
        'CUDA', 'cuDNN', 'torch', 'python') if key in facts]
    text = DRY * ('GPU' not in facts)
    text += f'{", ".join(first)}{date and f"; {date}"}.'
    if ranges:
        text += f' At work, in Table 4: {"; ".join(ranges)}.'
    if isinstance(meter, str):
        text += f' Energy: {NONE}, {meter}.'
    return text + '\n'


def _checks(folder: Path, steps: dict[str, Any]) -> str:
    rows = [['check', 'found', 'right']]
    core = {**_read(folder, 'core'), **_read(folder, 'modes'),
            **_read(folder, 'compiled'), **_read(folder, 'ddp')}
    told = dict(
        recompute=('`with_cp` against plain training', _tell_recompute),
        modes=('inference modes against eager', _tell_modes),
        **{name: (f'`{name}` against eager', _tell_modes)
           for name, mode in MODES.items() if mode.compile},
        synchronization=('timed code waits for nothing', lambda found: ', '
                         .join(f'{name}: {reason or "no wait"}' for
                               name, reason in found['waits'].items())),
        memory=('memory, the same network three times', lambda found: ', '
                .join('{:.0f} MB'.format(one['system' if one['reserved'] else
                                             'tensors'] / 1e6)
                      for one in found['memory'])),
        ddp=('DDP over NCCL, all gradients', lambda found: ', '.join(
            found['gradients'])),
        meter=('energy counter beside polled power', _tell_meter))
    for name, (what, tell) in told.items():
        if name in core:
            found = core[name]
            rows.append([what, found.get('error') or tell(found),
                         'yes' if found['ok'] else '**no**'])
    if summary := re.findall(r'^=*\s*(\d+ (?:passed|failed).*?)\s*=*$',
                             _log(folder, 'operators'), re.M):
        rows.append(['operators, CPU and GPU', summary[-1], 'yes' if steps.get(
            'operators', {}).get('status') == 'done' else '**no**'])
    for name, what in (('demo', 'the demo trained'),
                       ('optimized', 'the demo tested, optimized')):
        if found := _accuracy(_log(folder, name)):
            close = abs(found[0] - ON_CPU[0]) < 0.03
            rows.append([what, f'mAP {found[0]:.3f}, mAP50 {found[1]:.3f} '
                         f'(on a CPU {ON_CPU[0]}, {ON_CPU[1]})',
                         'yes' if close else '**no**'])
    failures = [line for found in core.values()
                for line in found.get('failures', [])]
    text = '## Is it right\n\n' + _table(rows)
    if failures:
        text += '\nNot right:\n\n' + ''.join(f'- {f}\n' for f in failures)
    return text if len(rows) > 1 else ''


def _tell_recompute(found: dict[str, Any]) -> str:
    worst = ', '.join(f'{mode} {ratio:.2f}' for mode, (ratio, _) in
                      found['worst_error_over_plain'].items())
    return (f'{found["cases"]} settings, {len(found["failures"])} fail; '
            f'largest error over that of plain training: {worst}')


def _tell_modes(found: dict[str, Any]) -> str:
    tried = [one for one in found['modes'].values() if isinstance(one, dict)]
    return (f'{len(tried)} tried: {len(found["failures"])} fail; ' + ', '.join(
        f'{name} {max(one["differences"]):.1e}'
        for name, one in found['modes'].items() if isinstance(one, dict)))


def _tell_meter(found: dict[str, Any]) -> str:
    if 'none' in found:
        return found['none']
    return (f'{found["busy_watts"]:.0f} W counted, '
            f'{found["polled_watts"]:.0f} W polled, idle '
            f'{found["idle_watts"]:.0f} W, a step each '
            f'{found["seconds_between_steps"] * 1e3:.0f} ms')


def _accuracy(log: str) -> tuple[float, float] | None:
    found = re.findall(
        r'coco/bbox_mAP: ([\d.]+)\s+coco/bbox_mAP_50: ([\d.]+)', log)
    return (float(found[-1][0]), float(found[-1][1])) if found else None


# -- Ratios ------------------------------------------------------------------


def _figures(report: dict[str, Any]) -> dict[tuple, dict[str, Any]]:
    """FPS and J/image, by name without its mode, and by mode."""
    return {
        (result['name'].removesuffix(f', {result["mode"]}'), result['mode']):
        {'FPS': result['fps'], 'J/image': _joules(result)}
        for result in report.get('results', [])}


def _joules(result: dict[str, Any]) -> float | None:
    return (result['energy'] or {}).get('joules_per_image')


def _printed(*tables: str) -> dict[str, dict[str, float]]:
    return {row.name: row.figures for row in paper.rows(list(tables))}


def compare(top: str, other: str, found: dict[str, dict[str, Any]],
            printed: dict[str, dict[str, float]]
            ) -> Iterator[tuple[str, float | None, float | None]]:
    """Set one network against another, here and in the paper.

    Args:
        top (str): The network that the paper proposes.
        other (str): One that it is compared with.
        found (dict): Measured FPS and J/image, by name.
        printed (dict): The paper's.

    Yields:
        tuple: What, and by how many times ``top`` is better here and there:
        more images/s, less energy.
    """
    for what in ('FPS', 'J/image'):
        ratios = []
        for figures in found, printed:
            a, b = (figures.get(name, {}).get(what) for name in (top, other))
            if a is None or b is None:
                ratios.append(None)
            else:
                ratios.append(a / b if what == 'FPS' else b / a)
        yield what, *ratios


def judge(here: float, there: float) -> str:
    """Say in words how a ratio agrees with the paper's.

    Args:
        here (float): Measured; above 1 is better.
        there (float): The paper's.

    Returns:
        str: A part of a sentence.
    """
    if (here - 1) * (there - 1) < 0:
        return 'the other way round here'
    if 1 / CLOSE <= here / there <= CLOSE:
        return 'as in the paper'
    more = (here > there) == (there > 1)
    return f'the same way, {"more" if more else "less"} than in the paper'


def _ratios(top: str, others: Sequence[str], found: dict, printed: dict,
            where: str) -> str:
    """A table of ratios, and a sentence on each that can be compared."""
    rows = [[f'{top} over', 'FPS', "paper's FPS", 'J/image', "paper's J/image"
             ]]
    lines = []
    for other in others:
        compared = list(compare(top, other, found, printed))
        rows.append([other, *(_number(ratio, '.2f') for _, *ratios in
                              compared for ratio in ratios)])
        for what, here, there in compared:
            if here is None or there is None:
                continue
            said = (f'{top} is {here:.2f} times as fast as {other}'
                    if what == 'FPS' else f'{other} takes {here:.2f} times '
                    f'the energy of {top}')
            lines.append(f'- {where}: {said}, in the paper {there:.2f}: '
                         f'{judge(here, there)}.')
    return _table(rows) + '\n' + ''.join(f'{line}\n' for line in lines)


def _ratios_of_settings(top: str, others: Sequence[str],
                        columns: dict[str, dict], printed: dict,
                        what: str) -> str:
    """A table of one ratio in several settings, and a sentence on each row."""
    rows = [[f'{what}, {top} over', *columns, "the paper's detectors"]]
    lines = []
    for other in others:
        ratios = {title: dict((name, one) for name, *one in compare(
            top, other, column, printed))[what]
            for title, column in columns.items()}
        there = next(iter(ratios.values()))[1]
        rows.append([other, *(_number(here, '.2f') for here, _ in
                              ratios.values()), _number(there, '.2f')])
        verdicts = {}
        for title, (here, _) in ratios.items():
            if here is not None and there is not None:
                verdicts.setdefault(judge(here, there), []).append(title)
        if verdicts:
            lines.append(f'- {other}: ' + '; '.join(
                f'{verdict} at {" and ".join(titles)}'
                for verdict, titles in verdicts.items()) + '.')
    return _table(rows) + '\n' + ''.join(f'{line}\n' for line in lines)


def _measured(report: dict[str, Any], printed: dict) -> str:
    """What was measured, the paper's figures, and their ratio."""
    rows = [['network', 'FPS', "paper's FPS", 'ratio', 'J/image',
             "paper's J/image", 'ratio', 'GFLOP/s', 'peak memory, MB', '!']]
    notes = []
    for result in report['results']:
        name = result['name']
        base = name.removesuffix(f', {result["mode"]}')
        row = [name]
        for value, what, form in (
                (result['fps'], 'FPS', '.1f'),
                (_joules(result), 'J/image', '.3g')):
            there = printed.get(base, {}).get(what)
            row += [_number(value, form), _number(there), _number(
                value / there if value and there else None)]
        speed = result['multiply_adds_per_second']
        memory = (result['memory'] or {}).get('tensors')
        rows.append([*row, _number(speed and speed / 1e9, '.0f'), _number(
            memory and memory / 1e6, '.0f'), '!' * bool(result['problems'])])
        notes += [f'- {name}: {problem}.' for problem in result['problems']]
    on = report['conditions']
    keys = ('timed', 'input', 'batch', 'dtype', 'memory format', 'repeats',
            'date')
    told = '; '.join(f'{key}: {on[key]}' for key in keys if key in on)
    return _table(rows) + f'\n{told}.\n' + ''.join(
        f'{note}\n' for note in ['', *notes] if notes)


BASELINES = 'DenseNet-201', 'DenseNet-161', 'ResNet-101', 'ResNet-50'


def _table4(folder: Path, shown: dict[str, str]) -> str:
    printed, text = _printed('table4'), ''
    for name in 'table4', 'table4_graph':
        report = _read(folder, name)
        if not report.get('results'):
            continue
        found = {key[0]: value for key, value in _figures(report).items()}
        mode = report['results'][0]['mode']
        kind = (f'{mode}: {MODES[mode].description}' if mode
                else 'eager, as there')
        text += (f'\n### {kind[0].upper()}{kind[1:]}\n\n'
                 + _measured(report, printed) + '\n' + _ratios(
                     'VoVNet-39', BASELINES, found, printed,
                     f'RefineDet320, {mode or "eager"}'))
    if not text:
        return ''
    picture = shown.get('gpu_table4.png', '')
    return f'## Table 4: RefineDet, batch 1\n{text}\n' + (
        picture and f'{picture}\n')


def _lightweight(folder: Path, shown: dict[str, str]) -> str:
    report, printed = _read(folder, 'table2'), _printed('table2', 'table3')
    if not report.get('results'):
        return ''
    found = {key[0]: value for key, value in _figures(report).items()}
    top = 'DSOD300 VoVNet-27-slim'
    text = '## Tables 2 and 3: lightweight detectors, batch 1\n\n'
    text += _measured(report, printed) + '\n' + _ratios(
        top, ['DSOD300 DenseNet-67', 'Pelee304 PeleeNet', 'SSD300 MobileNet',
              '+ bottleneck'], found, printed, 'Lightweight')
    picture = shown.get('gpu_table2.png', '')
    return text + (picture and f'\n{picture}\n')


def _backbones(folder: Path, shown: dict[str, str]) -> str:
    """Six backbones: batch 1 and 64, eager and graphs, fp32 and bf16."""
    printed, columns = _printed('table4'), {}
    for name in 'batch1', 'batch64_fp32', 'batch64':
        report = _read(folder, name)
        kind = report.get('conditions', {}).get('dtype', '')
        for (network, mode), figures in _figures(report).items():
            title = (f'batch {report["conditions"]["batch"]}, '
                     f'{mode or "bf16" * kind.startswith("bf16") or "eager"}')
            columns.setdefault(title, {})[network] = figures
    if not columns:
        return ''
    networks = list(dict.fromkeys(
        name for column in columns.values() for name in column))
    rows = [['backbone, FPS', *columns]]
    rows += [[name, *(_number(column.get(name, {}).get('FPS'), '.0f')
                      for column in columns.values())] for name in networks]
    text = '## Backbones alone\n\n' + _table(rows)
    joules = {title: column for title, column in columns.items()
              if any(f['J/image'] for f in column.values())}
    if joules:
        rows = [['backbone, J/image', *joules]]
        rows += [[name, *(_number(column.get(name, {}).get('J/image'), '.3g')
                          for column in joules.values())]
                 for name in networks]
        text += '\n' + _table(rows)
    text += ('\nVoVNet-39 over each, in speed and in saving; the paper\'s '
             'are whole detectors at batch 1, on a TITAN X.\n')
    text += '\n' + _ratios_of_settings('VoVNet-39', BASELINES, columns,
                                       printed, 'FPS')
    if joules:
        text += '\n' + _ratios_of_settings('VoVNet-39', BASELINES, joules,
                                           printed, 'J/image')
    picture = shown.get('gpu_batch64.png', '')
    return text + (picture and f'\n{picture}\n')


def _training(folder: Path) -> str:
    report = _read(folder, 'training')
    if not report.get('results'):
        return ''
    rows = [['network', 'peak memory, MB', "of timm's", 'time, ms',
             "of timm's"]]
    rows += [[one['name'], f'{one["memory"]["tensors"] / 1e6:.0f}',
              f'{one["memory_ratio"]:.2f}',
              f'{one["latency"]["median"] * 1e3:.1f}',
              f'{one["time_ratio"]:.2f}'] for one in report['results']]
    on = report['conditions']
    told = '; '.join(f'{key}: {on[key]}' for key in (
        'timed', 'input', 'batch', 'dtype', 'memory format', 'rounds', 'date')
        if key in on)
    return ('## Training: memory and time beside timm\n\n' + _table(rows)
            + f'\n{told}.\n')


def _steps(steps: dict[str, Any]) -> str:
    rows = [['step', 'status', 's', 'what it said last']]
    rows += [[name, one['status'], f'{one["seconds"]:.0f}',
              one['last'].replace('|', '/')[:160]]
             for name, one in steps.items()]
    return '## Steps\n\n' + _table(rows)
