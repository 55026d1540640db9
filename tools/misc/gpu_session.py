"""Measure everything on a machine with one GPU, in minutes; called by make.

Each step is a process with a time limit and a log. A failure does not stop
the others, finished steps are not run again, and all end before the deadline.
The small folder of results is all that a later session needs to go on.

Standard library only, so that a Python without the packages is told so. They
can be brought as wheels, without a network: `make gpu-wheels`.
"""
import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain',
            'pycocotools', 'shapely', 'terminaltables', 'addict', 'yapf',
            'mat4py', 'modelindex', 'cv2', 'scipy', 'matplotlib', 'rich',
            'einops', 'timm', 'pytest', 'pkg_resources')

DEMO = 'configs/demo/retinanet_vovnet-27-slim_fpn_shapes.py'
# The backbones that `make compare` has.
SIX = '''
    configs/retinanet/retinanet_vovnet-39_fpn_1x_coco.py
    configs/retinanet/retinanet_vovnet-57_fpn_1x_coco.py
    mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
    mmdet::retinanet/retinanet_r101_fpn_1x_coco.py
    mmpretrain::densenet/densenet201_4xb256_in1k.py
    mmpretrain::densenet/densenet161_4xb256_in1k.py
    --names VoVNet-39 VoVNet-57 ResNet-50 ResNet-101 DenseNet-201
    DenseNet-161 --part backbone'''


class Step(NamedTuple):
    """A process of a session, which runs in the work folder.

    Attributes:
        name: Name of the log and the results.
        limit: Seconds.
        argv: Arguments of Python; {results} is the folder of results.
        makes: Path in the work folder of what other steps need.
        needs: Names of the steps that make what this one needs.
    """
    name: str
    limit: float
    argv: list
    makes: str = ''
    needs: tuple = ()


def make_steps(cuda):
    """List the steps, the most important first.

    Args:
        cuda (bool): False for the dry run with the smallest sizes.

    Returns:
        list[Step]: The steps in order.
    """
    device = 'cuda' if cuda else 'cpu'

    def step(name, limit, command, **options):
        return Step(name, limit, command.split(), **options)

    def check(name, limit, checks):
        small = '' if cuda else '--small'
        return step(name, limit, 'tools/analysis_tools/gpu_check.py --device '
                    f'{device} {small} {checks} --out {{results}}/{name}.json')

    def benchmark(name, limit, what, energy=False, plot=False):
        if not cuda:
            pace = '--repeats 1 --seconds 0 --max-warm-up 0 --meter none'
        else:
            pace = ('--repeats 4 --seconds 0.3 --max-warm-up 3 '
                    '--order shuffled ')
            pace += ('--energy-repeats 1 --energy-seconds 10 --cool-down 1'
                     if energy else '--meter none')
        out = f'{{results}}/{name}'
        return step(name, limit, 'tools/analysis_tools/benchmark.py '
                    f'{what} {pace} --out {out}.json {out}.md {out}.csv '
                    f'--resume --device {device}'
                    + (f' --plot {out}' if plot else ''))

    def loaders(*splits):
        return '--cfg-options ' + ' '.join(
            f'{split}_dataloader.num_workers={8 if cuda else 0} '
            f'{split}_dataloader.persistent_workers={cuda}'
            for split in splits)

    tiny = '' if cuda else '--shape 64'
    six = f'{SIX} --shape {320 if cuda else 64}'
    batch = f'--batch-size {64 if cuda else 2}'
    short = 'train_cfg.max_epochs=1 train_cfg.val_interval=1'
    trained = 'demo/epoch_3.pth' if cuda else 'demo/epoch_1.pth'
    steps = [
        check('facts', 60, 'facts'),
        check('core', 150, 'synchronization memory meter recompute'),
        check('modes', 90, 'modes'),
        step('operators', 150, '-m pytest -q -p no:cacheprovider '
             'tests/test_ops ' + (
                 'tests/test_models/test_recompute_cuda.py::'
                 'test_nothing_changes_on_a_gpu -k cuda' if cuda else
                 '-k nms')),
        step('data', 60, 'tools/dataset_converters/make_shapes.py data/shapes '
             + ('--num-train 1400 --num-val 200' if cuda else
                '--num-train 8 --num-val 4'), makes='data/shapes'),
        step('demo', 150, f'tools/train.py {DEMO} --work-dir demo --resume '
             f'{loaders("train", "val")} {"" if cuda else short}',
             makes=trained, needs=['data']),
        # The paper's Table 4, as it was measured: batch 1.
        benchmark('table4', 180, f'--paper table4 --nms out {tiny}',
                  energy=True, plot=True),
        # The GPU at work, where launches no longer count.
        benchmark('batch64', 150, f'{six} {batch} ' + (
            '--dtype bf16 --channels-last' if cuda else ''),
            energy=True, plot=True),
        benchmark('table2', 150, '--paper table2 table3 --nms out ' + (
            '' if cuda else '--shape 300'), energy=True, plot=True),
        benchmark('batch1', 150, f'{six} --optimize eager ' + (
            'graph bf16 bf16-graph' if cuda else 'fold')),
        step('training', 90, 'tools/analysis_tools/training_memory.py ' + (
            'V1-39 V2-39 V2-99 --shape 512 --batch-size 16' if cuda else
            'V1-39 --shape 64 --batch-size 1 --rounds 1')
            + f' --device {device} --overwrite --out '
            '{results}/training.json {results}/training.md'),
        benchmark('table4_graph', 180, '--paper table4 --nms out '
                  f'{tiny} --optimize {"graph" if cuda else "fold"}',
                  energy=True),
        benchmark('batch64_fp32', 90, f'{six} {batch} --optimize eager '
                  + ('graph' if cuda else '')),
        check('compiled', 240, 'compile fp16-compile bf16-compile'),
        # NCCL may hang: last but for what needs a training.
        check('ddp', 40, 'ddp'),
        step('optimized', 60, f'tools/test.py {DEMO} {trained} --work-dir '
             f'test {loaders("test")} --optimize '
             + ('fp16' if cuda else 'fold'), needs=['data', 'demo'])]
    if cuda:
        amp = (f'tools/train.py {DEMO} --work-dir amp --amp '
               f'{loaders("train", "val")} model.backbone.with_cp=')
        steps += [
            step('amp', 90, f'{amp}pointwise {short}',
                 makes='amp/epoch_1.pth', needs=['data']),
            step('amp_resumed', 90, f'{amp}block train_cfg.max_epochs=2 '
                 'train_cfg.val_interval=2 --resume', needs=['data', 'amp'])]
    return steps


def stop(message):
    """End with one line."""
    sys.exit('gpu: ' + message)


class Session:
    """Steps and what has become of them.

    Attributes:
        work: Folder where steps run.
        results: Folder of results and logs.
        state: Status, seconds, limit and more of each step that has run.
    """

    def __init__(self, folder, steps, deadline, only=None, say=print):
        self.work = Path(folder).resolve()
        self.results = self.work / 'results'
        (self.results / 'logs').mkdir(parents=True, exist_ok=True)
        self.steps = {step.name: step for step in steps}
        self.only = [name for name in self.steps if not only or name in only]
        self.start, self.deadline = time.monotonic(), deadline
        self.say = say
        self._file = self.results / 'steps.json'
        try:
            self.state = json.loads(self._file.read_text())
        except (OSError, ValueError):
            self.state = {}

    def count_seconds_left(self):
        """Count the seconds to the deadline."""
        return self.deadline - (time.monotonic() - self.start)

    def is_done(self, name):
        """Tell whether a step was done, here or where results came from."""
        return self.state.get(name, {}).get('status') == 'done'

    def is_due(self, step):
        """Tell whether a step must run.

        One that is done must run again if its product is missing here and a
        due step needs it.
        """
        if not self.is_done(step.name):
            return True
        if not step.makes or (self.work / step.makes).exists():
            return False
        return any(self.is_due(self.steps[name]) for name in self.only
                   if step.name in self.steps[name].needs)

    def run(self):
        """Run what is due and return the names of the steps not done."""
        for name in self.only:
            self._run(self.steps[name])
        return [name for name in self.only if not self.is_done(name)]

    def _run(self, step):
        if not self.is_due(step):
            self.say(f'gpu: {step.name:14} done before')
            return
        missing = [name for name in step.needs if not (
            self.is_done(name)
            and (self.work / self.steps[name].makes).exists())]
        if missing:
            self._note(step, 'not run', 0, 'needs ' + ', '.join(missing))
            return
        limit = min(step.limit, self.count_seconds_left())
        if limit < min(15, step.limit):
            self.say(f'gpu: {step.name:14} no time left')
            return
        start = time.monotonic()
        log = self.results / 'logs' / (step.name + '.log')
        argv = [str(ROOT / arg) if arg.startswith(('tools/', 'tests/')) else
                arg.replace('{results}', str(self.results))
                for arg in step.argv]
        with open(log, 'ab') as file:
            file.write(f'$ python {" ".join(argv)}\n'.encode())
            file.flush()
            process = subprocess.Popen(
                [sys.executable, *argv], cwd=self.work,
                stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, env=self._make_env(),
                start_new_session=True)
            status = self._wait(process, limit)
        seconds = time.monotonic() - start
        tail = log.read_bytes()[-3000:].decode(errors='replace').strip()
        last = tail.splitlines()[-1] if tail else ''
        self._note(step, status, seconds, '' if status == 'done' else last,
                   limit)

    def _wait(self, process, limit):
        """Wait for a process; end it with its children at the limit."""
        status = 'cut off'
        try:
            code = process.wait(limit)
            status = 'done' if code == 0 else f'failed ({code})'
        except subprocess.TimeoutExpired:
            pass
        finally:
            for number in signal.SIGTERM, signal.SIGKILL:
                try:
                    os.killpg(process.pid, number)
                    process.wait(3)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    pass
        return status

    def _make_env(self):
        folders = [self.work / 'site', ROOT / 'projects',
                   *os.environ.get('PYTHONPATH', '').split(os.pathsep)]
        return dict(
            os.environ, MPLBACKEND='Agg', PYTHONUNBUFFERED='1', COLUMNS='200',
            PYTHONPATH=os.pathsep.join(filter(None, map(str, folders))))

    def _note(self, step, status, seconds, last='', limit=None):
        """Write down at once what became of a step."""
        self.state[step.name] = dict(
            status=status, seconds=round(seconds, 1),
            limit=limit and round(limit), last=last[:500],
            at=time.strftime('%F %T'))
        part = self._file.with_suffix('.part')
        part.write_text(json.dumps(self.state, indent=1))
        part.replace(self._file)
        self.say(f'gpu: {step.name:14} {status}, {seconds:.0f} s '
                 f'({self.count_seconds_left():.0f} s left)'
                 + (f': {last[:300]}' if last else ''))


def bring_wheels(wheels, site):
    """Install the wheels of a folder, if it exists, into another folder."""
    files = sorted(map(str, Path(wheels).glob('*.whl')))
    if not files:
        return
    part = site.with_name('site.part')
    shutil.rmtree(part, ignore_errors=True)
    run = subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '-q', '--no-index',
         '--no-deps', '--no-compile', '--no-cache-dir',
         '--disable-pip-version-check', '--target', str(part), *files],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        version = '.'.join(map(str, sys.version_info[:2]))
        reason = (run.stdout.strip().splitlines() or ['no reason given'])[-1]
        stop(f'the wheels in {wheels} cannot be installed ({reason}); run '
             f'make gpu-wheels WHEELS_PYTHON={version} where there is a '
             'network, and bring them again')
    shutil.rmtree(site, ignore_errors=True)
    part.rename(site)


def find_missing():
    """List the packages that are not installed."""
    importlib.invalidate_caches()
    return [name for name in PACKAGES
            if importlib.util.find_spec(name) is None]


def check_machine(cuda):
    """Stop where packages or the GPU are missing, in one line."""
    if missing := find_missing():
        stop(f'{sys.executable} has no {", ".join(missing)}; run make '
             'gpu-wheels where there is a network and bring the folder '
             '.wheels, or make setup and then make gpu')
    if cuda:
        import torch
        if not torch.cuda.is_available():
            stop(f'torch {torch.__version__} finds no CUDA device; make gpu '
                 'DEVICE=cpu runs without')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', help='work folder; results are below')
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda',
                        help='cpu: the dry run, with the smallest sizes')
    parser.add_argument('--seconds', type=float, default=530,
                        help='all steps end before (default: 530)')
    parser.add_argument('--wheels', default=ROOT / '.wheels', type=Path,
                        help='packages to use, as wheels')
    parser.add_argument('--only', nargs='+', metavar='STEP',
                        help='these steps alone')
    args = parser.parse_args()
    names = [step.name for step in make_steps(args.device == 'cuda')]
    if unknown := set(args.only or ()) - set(names):
        parser.error(f'--only: no step {", ".join(unknown)}; choose from '
                     f'{", ".join(names)}')
    if not 20 <= args.seconds < float('inf'):
        parser.error(f'--seconds {args.seconds:g}: give at least 20')
    return args


def prepare(args):
    """Make the work folder and see that packages and device are there."""
    try:
        os.makedirs(args.folder, exist_ok=True)
    except OSError as error:
        stop(f'{args.folder}: {error.strerror}; choose another folder')
    site = Path(args.folder).resolve() / 'site'
    sys.path.insert(0, str(site))
    if find_missing():
        bring_wheels(args.wheels, site)
    check_machine(args.device == 'cuda')


def main():
    start = time.monotonic()
    args = parse_args()
    prepare(args)
    session = Session(args.folder, make_steps(args.device == 'cuda'),
                      args.seconds - (time.monotonic() - start), args.only)
    # Either ends the step that runs, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        open_steps = session.run()
    except KeyboardInterrupt:
        stop('interrupted; what is done is kept, run it again')
    print(f'gpu: results in {session.results}')
    if open_steps:
        stop(f'not done: {", ".join(open_steps)}; their logs are in '
             f'{session.results / "logs"}, run it again')


if __name__ == '__main__':
    main()
