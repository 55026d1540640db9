"""Sessions on a GPU: steps that fail alone and end in time."""
import importlib.util
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from tool_runs import ROOT

from vovnet.engine.config import load_config

FILE = ROOT / 'tools/misc/gpu_session.py'
spec = importlib.util.spec_from_file_location('gpu_session', FILE)
gpu_session = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu_session)
Session, Step = gpu_session.Session, gpu_session.Step


def python(name, code, limit=60, **options):
    return Step(name, limit, '-c', code, **options)


def run(folder, *steps, seconds=60, only=None):
    """Run steps; give those that are not done, and what was said."""
    said = []
    session = Session(folder, steps, seconds, only, say=said.append)
    return session.run(), said, session


def test_each_fails_alone_and_is_done_once(tmp_path):
    steps = [
        python('good', 'print("a line"); open("n", "a").write("x")'),
        python('bad', 'print("why"); raise SystemExit(3)'),
        python('last', 'open("m", "a").write("x")')]
    left, said, session = run(tmp_path, *steps)
    assert left == ['bad']
    assert session.state['bad']['status'] == 'failed (3)'
    assert session.state['bad']['last'] == 'why'
    assert 'a line' in (tmp_path / 'results/logs/good.log').read_text()
    # Again, from the results alone: what failed has another try.
    steps[1] = python('bad', 'print("better")')
    left, said, _ = run(tmp_path, *steps)
    assert left == [] and 'done before' in said[0]
    assert 'why' in (log := (tmp_path / 'results/logs/bad.log').read_text())
    assert 'better' in log
    assert (tmp_path / 'n').read_text() == (tmp_path / 'm').read_text() == 'x'


def test_limits_and_the_deadline(tmp_path, monkeypatch):
    """Children of a step end with it; nothing starts that cannot end."""
    child = ('import subprocess, sys, time; subprocess.Popen([sys.executable, '
             '"-c", "import time; time.sleep(3); open(\'late\', \'w\')"]); '
             'print("started", flush=True); time.sleep(60)')
    start = time.monotonic()
    left, _, session = run(
        tmp_path, python('slow', child, limit=2), python('next', 'pass'))
    assert left == ['slow'] and time.monotonic() - start < 30
    assert session.state['slow']['status'] == 'cut off'
    left, _, session = run(tmp_path, python('third', 'pass'), seconds=14)
    assert left == ['third']
    assert 'third' not in session.state
    monkeypatch.setattr(Session, 'min_seconds', 1)
    left, _, session = run(
        tmp_path, python('fourth', 'import time; time.sleep(60)', 60),
        seconds=3)
    assert session.state['fourth']['status'] == 'cut off'
    assert session.state['fourth']['seconds'] < 20
    assert not (tmp_path / 'late').exists()


def test_products_are_made_again_only_where_needed(tmp_path):
    """As on another machine, which has the results and no more."""
    make = python('make', 'open("thing", "w"); open("n", "a").write("x")',
                  makes='thing')
    fails = python('use', 'raise SystemExit(1)', needs=['make'])
    other = python('other', 'pass')
    assert run(tmp_path, make, fails, other)[0] == ['use']
    (tmp_path / 'thing').unlink()
    assert run(tmp_path, make, fails, other, only=['other'])[0] == []
    assert not (tmp_path / 'thing').exists()  # nobody asked for it
    use = python('use', 'open("thing")', needs=['make'])
    _, said, session = run(tmp_path, make, use, only=['use'])
    assert session.state['use']['status'] == 'not run'
    assert 'needs make' in said[-1]
    assert run(tmp_path, make, use, other)[0] == []
    (tmp_path / 'thing').unlink()
    assert run(tmp_path, make, use, other)[0] == []
    assert (tmp_path / 'n').read_text() == 'xx'


def command(*args, flags=(), **env):
    done = subprocess.run(
        [sys.executable, *flags, str(FILE), *map(str, args)], text=True,
        capture_output=True, env=dict(os.environ, **env))
    assert 'Traceback' not in done.stderr
    return done


def test_what_is_missing_in_one_line(tmp_path):
    done = command(tmp_path / 'a', '--wheels', tmp_path, flags=['-S'])
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith('gpu: ') and 'has no torch, torchvision' in line
    assert 'make gpu-wheels' in line
    done = command(tmp_path / 'a', CUDA_VISIBLE_DEVICES='')
    [line] = done.stderr.splitlines()
    assert 'finds no CUDA device; make gpu DEVICE=cpu' in line
    done = command(tmp_path / 'a', '--only', 'everything')
    assert done.returncode == 2 and 'no step everything' in done.stderr
    (tmp_path / 'file').write_text('')
    done = command(tmp_path / 'file/b', '--device', 'cpu')
    assert done.returncode == 1 and 'choose another folder' in done.stderr


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_step(tmp_path, number):
    code = f'''
import sys
sys.path.insert(0, {str(FILE.parent)!r})
import gpu_session
step = gpu_session.Step('slow', 90, '-c', 'import os, time; print("pid", '
                        'os.getpid(), flush=True); time.sleep(90)')
gpu_session.make_steps = lambda cuda: [step]
gpu_session.check_machine = lambda cuda: None
sys.argv = ['gpu_session.py', {str(tmp_path)!r}]
gpu_session.main()
'''
    # nohup or a shell's & may run these tests, which ignores SIGINT.
    process = subprocess.Popen(
        [sys.executable, '-c', code], text=True, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    log, pid = tmp_path / 'results/logs/slow.log', None
    while process.poll() is None and not pid:
        time.sleep(0.1)
        pid = log.exists() and re.search(r'^pid (\d+)$', log.read_text(), re.M)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == 'gpu: interrupted; run it again to continue\n'
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid[1]), 0)


def wheel(folder, name, tag='py3-none-any'):
    file = folder / f'{name}-1.0-{tag}.whl'
    info = f'{name}-1.0.dist-info'
    metadata = f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n'
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr(f'{name}.py', 'here = True')
        archive.writestr(f'{info}/METADATA', metadata)
        archive.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\n'
                         f'Root-Is-Purelib: true\nTag: {tag}\n')
        archive.writestr(f'{info}/RECORD', '')


def test_wheels_are_installed_offline(tmp_path):
    wheels, site = tmp_path / 'wheels', tmp_path / 'site'
    wheels.mkdir()
    gpu_session.install_wheels(wheels, site)
    assert not site.exists()
    wheel(wheels, 'brought')
    gpu_session.install_wheels(wheels, site)
    assert (site / 'brought.py').exists()
    wheel(wheels, 'foreign', 'cp27-cp27m-win32')
    with pytest.raises(SystemExit, match='cannot be installed .*gpu-wheels '
                       'WHEELS_PYTHON') as error:
        gpu_session.install_wheels(wheels, site)
    assert '\n' not in str(error.value)
    assert (site / 'brought.py').exists()


@pytest.mark.parametrize('cuda', [True, False])
def test_every_step_can_be_given_to_its_tool(cuda, monkeypatch, capsys):
    """Options that tools take, and configs that are there."""
    steps = gpu_session.make_steps(cuda)
    assert len({step.name for step in steps}) == len(steps) >= 15
    tools, loaded = {}, set()
    for step in steps:
        assert all(name in {s.name for s in steps if s.makes}
                   for name in step.needs)
        tool, *argv = step.argv
        if tool == '-m':
            assert argv[0] == 'pytest' and all(
                (ROOT / path.partition('::')[0]).exists() for path in argv
                if 'tests/' in path)
            continue
        if tool not in tools:
            tools[tool] = runpy.run_path(str(ROOT / tool), run_name='tool')
        monkeypatch.setattr(sys, 'argv', [tool, *argv])
        args = tools[tool]['parse_args']()
        configs = getattr(args, 'configs', None) or [
            getattr(args, 'config', None)]
        for config in filter(None, configs):
            if (key := (config, str(args.cfg_options))) not in loaded:
                load_config(config, args.cfg_options)
                loaded.add(key)


def test_the_dry_run(tmp_path):
    """Its cheap steps; `make gpu DEVICE=cpu` runs all."""
    cheap = ['facts', 'data']
    done = command(tmp_path, '--device', 'cpu', '--seconds', 300, '--only',
                   *cheap)
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / 'results'
    state = json.loads((results / 'steps.json').read_text())
    assert [state[name]['status'] for name in cheap] == ['done'] * 2
    facts = json.loads((results / 'facts.json').read_text())['facts']
    assert facts['torch'] and facts['modes']['eager'] is None
    assert (tmp_path / 'data/shapes/val').is_dir()
    done = command(tmp_path, '--device', 'cpu', '--only', *cheap)
    assert done.stdout.count('done before') == 2
