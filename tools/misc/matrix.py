"""Run the tests on several Pythons and torches: called by ``make matrix``.

Each combination gets a fresh environment, made as by ``make setup`` and
removed afterwards, and a JSON file of results. The table shows all of these
files, so that runs can be added one by one, also from other systems. Standard
library only.
"""
import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

from setup_env import OLDEST, release

ROOT = Path(__file__).resolve().parents[2]

FAST = ['tests/test_models', 'tests/test_ops', 'tests/test_configs',
        'tests/test_checkpoints']
SHOW_VERSIONS = '''
import json, platform
from importlib.metadata import version
print(json.dumps(dict(
    {n: version(n) for n in ('torch', 'torchvision', 'numpy')},
    python=platform.python_version())))
'''


def find_pythons():
    """Find the newest of each minor version, on PATH and of pyenv.

    Returns:
        dict[str, str]: Path of the interpreter by version, as ``'3.12'``.
    """
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'))
    folders = [*os.environ.get('PATH', '').split(os.pathsep),
               *sorted(pyenv.glob('versions/*/bin'))]
    found = {}
    for folder in folders:
        for path in Path(folder).glob('python3*'):
            if path.name[len('python3'):].strip('.0123456789'):
                continue  # python3-config and the like
            # pyenv has shims for versions that are not active, which fail.
            try:
                done = subprocess.run(
                    [path, '-c', 'import ensurepip, venv, sys; '
                     'print(*sys.version_info[:3])'],
                    capture_output=True, text=True)
            except OSError:  # a link to nothing, or not executable
                continue
            if done.returncode == 0:
                version = tuple(map(int, done.stdout.split()))
                found[version] = str(path)
    newest = {version[:2]: found[version] for version in sorted(found)}
    return {'{}.{}'.format(*minor): path
            for minor, path in newest.items() if minor >= OLDEST}


def run(command, log):
    """Run a command with its output in a log; return status and seconds."""
    start = time.monotonic()
    with open(log, 'ab') as file:
        status = subprocess.run(
            list(map(str, command)), cwd=ROOT, stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {'OMP_NUM_THREADS': '1'}).returncode
    return status, round(time.monotonic() - start)


def count_results(report):
    """Count what passed, failed and was skipped in a JUnit report."""
    total = dict.fromkeys(('tests', 'failures', 'errors', 'skipped'), 0)
    for suite in ElementTree.parse(report).getroot().iter('testsuite'):
        for key in total:
            total[key] += int(suite.get(key, 0))
    failed = total['failures'] + total['errors']
    return {'passed': total['tests'] - failed - total['skipped'],
            'failed': failed, 'skipped': total['skipped']}


def try_combination(python, torch, tests, folder, keep):
    """Make an environment, run the tests in it and remove it.

    Args:
        python (str): Interpreter.
        torch (str): Version; empty for the default one.
        tests (list[str]): Arguments of pytest; empty for the whole suite.
        folder (Path): Where the environment, the log and the report go.
        keep (bool): Leave the environment.

    Returns:
        dict: Versions, counts, times and, in words, the outcome.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log, report, venv = (folder / name for name in (
        'log.txt', 'report.xml', 'venv'))
    row = {}
    try:
        status, row['setup_s'] = run(
            [python, 'tools/misc/setup_env.py', '--venv', venv,
             '--torch', torch], log)
        if status:
            row['outcome'] = f'set-up ended with {status}, see {log}'
            return row
        interpreter = venv / 'bin' / 'python'
        row |= json.loads(subprocess.run(
            [interpreter, '-c', SHOW_VERSIONS], stdout=subprocess.PIPE,
            check=True).stdout)
        status, row['tests_s'] = run(
            [interpreter, '-m', 'pytest', '-q', '-n', '2', '--dist',
             'loadgroup', f'--junitxml={report}', *(tests or ['tests'])], log)
        if report.exists():
            row |= count_results(report)
        row['outcome'] = ('passes' if status == 0
                          else f'pytest ended with {status}, see {log}')
        return row
    finally:
        if not keep:
            shutil.rmtree(venv, ignore_errors=True)


def name_system():
    """Name the operating system, for people and for files."""
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        return platform.platform(terse=True), platform.system().lower()
    return (f'{found["PRETTY_NAME"]}, {os.cpu_count()} cores',
            found['ID'] + found.get('VERSION_ID', '-testing'))


def format_table(rows):
    """Lay out rows as Markdown."""
    lines = ['| Python | torch | numpy | tests | passed | failed | skipped '
             '| set-up | tests took | system | date |', '| --- ' * 11 + '|']
    for row in sorted(rows, key=lambda r: (release(r['python']),
                                           release(r['torch']))):
        cells = dict.fromkeys(('numpy', 'passed', 'skipped'), '') | {
            'failed': row['outcome'], 'tests_s': 0} | row
        cells['tests_m'] = round(cells['tests_s'] / 60)
        lines.append(
            '| {python} | {torch} | {numpy} | {tests} | {passed} | {failed} '
            '| {skipped} | {setup_s} s | {tests_m} min | {system} | {date} |'
            .format_map(cells))
    return '\n'.join(lines) + '\n'


def parse_args():
    parser = argparse.ArgumentParser(
        description='Run the tests on several Pythons and torches')
    parser.add_argument('out', type=Path, help='folder for environments, '
                        'logs, results and the table')
    parser.add_argument('--pythons', nargs='*', metavar='X.Y',
                        help='default: all that are found')
    parser.add_argument('--torches', nargs='*', default=[], metavar='VERSION',
                        help='default: that of make setup')
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--tests', nargs='*', default=[], metavar='PATH',
                       help='default: the whole suite')
    which.add_argument('--fast', action='store_true',
                       help=f'only {" ".join(FAST)}')
    parser.add_argument('--keep', action='store_true',
                        help='leave the environments, 6 GB each')
    return parser.parse_args()


def main():
    args = parse_args()
    found = find_pythons()
    wanted = args.pythons or list(found)
    for name in wanted:
        if name not in found:
            sys.exit(f'matrix: there is no Python {name}; choose from '
                     f'{", ".join(found)}')
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    system, short_system = name_system()
    tests = FAST if args.fast else args.tests
    what = 'fast part' if args.fast else ' '.join(tests) or 'all'
    good = True
    for name in wanted:
        for torch in args.torches or ['default']:
            label = '-'.join([short_system, f'python{name}', f'torch-{torch}',
                              *['part'] * bool(tests)])
            print(f'matrix: {label} ...', flush=True)
            row = {'system': system, 'tests': what, 'python': name,
                   'torch': torch, 'date': str(datetime.date.today())}
            row |= try_combination(
                found[name], '' if torch == 'default' else torch, tests,
                out / label, args.keep)
            (out / f'{label}.json').write_text(json.dumps(row, indent=1))
            good &= row['outcome'] == 'passes'
            print(f'matrix: {label}: {row["outcome"]}', flush=True)
    table = format_table(
        [json.loads(path.read_text()) for path in out.glob('*.json')])
    (out / 'table.md').write_text(table)
    print(table, end='')
    sys.exit(not good)


if __name__ == '__main__':
    main()
