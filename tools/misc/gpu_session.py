"""Run all checks and measurements on one GPU in minutes; called by make.

Each step is a process with a time limit and a log. A failed step does not
stop the others, a finished one is not run again, and all end before the
deadline. The folder of results is small and is all that another run needs to
continue, also on another machine with such a GPU.

Standard library only, to report missing packages. A machine without internet
gets them as wheels from `make gpu-wheels`.
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

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain',
            'pycocotools', 'shapely', 'terminaltables', 'addict', 'yapf',
            'mat4py', 'modelindex', 'cv2', 'scipy', 'matplotlib', 'rich',
            'einops', 'timm', 'pytest', 'pkg_resources')

BENCHMARK = 'tools/analysis_tools/benchmark.py'
CHECK = 'tools/analysis_tools/gpu_check.py'
DEMO = 'configs/demo/retinanet_vovnet-27-slim_fpn_shapes.py'
# The backbones of `make compare`.
SIX = [
    'configs/retinanet/retinanet_vovnet-39_fpn_1x_coco.py',
    'configs/retinanet/retinanet_vovnet-57_fpn_1x_coco.py',
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'mmdet::retinanet/retinanet_r101_fpn_1x_coco.py',
    'mmpretrain::densenet/densenet201_4xb256_in1k.py',
    'mmpretrain::densenet/densenet161_4xb256_in1k.py',
    '--names', 'VoVNet-39', 'VoVNet-57', 'ResNet-50', 'ResNet-101',
    'DenseNet-201', 'DenseNet-161', '--part', 'backbone']


class Step:
    """A process of a session.

    Attributes:
        name: Also of its log and its results.
        limit: Seconds.
        argv: Arguments of Python; {results} stands for the folder of results.
        makes: File or folder that it leaves in the work folder for others.
        needs: Names of steps whose products it uses.
    """

    def __init__(self, name, limit, *argv, makes='', needs=()):
        self.name, self.limit, self.argv = name, limit, argv
        self.makes, self.needs = makes, needs


def make_steps(cuda):
    """List the steps, the most important first; without CUDA the dry run's."""

    def pick(full, dry=''):
        return (full if cuda else dry).split()

    device = pick('--device cuda', '--device cpu')
    pace = pick('--repeats 4 --seconds 0.3 --max-warm-up 3 --order shuffled',
                '--repeats 1 --seconds 0 --max-warm-up 0')
    windows = pick('--energy-repeats 1 --energy-seconds 10 --cool-down 1',
                   '--meter none')

    def check(name, limit, *checks):
        return Step(name, limit, CHECK, *device, *pick('', '--small'), *checks,
                    '--out', f'{{results}}/{name}.json')

    def table(name, limit, *argv, energy=False, plot=False):
        path = f'{{results}}/{name}'
        return Step(name, limit, BENCHMARK, *argv, *pace,
                    *(windows if energy else ['--meter', 'none']),
                    '--out', f'{path}.json', f'{path}.md', f'{path}.csv',
                    '--resume', *device, *(['--plot', path] if plot else []))

    def set_loaders(*splits):
        options = pick('num_workers=8 persistent_workers=True',
                       'num_workers=0 persistent_workers=False')
        return ['--cfg-options', *(f'{split}_dataloader.{option}'
                                   for split in splits for option in options)]

    def train_epochs(number):
        return [f'train_cfg.max_epochs={number}',
                f'train_cfg.val_interval={number}']

    tiny = pick('', '--shape 64')
    six = [*SIX, *pick('--shape 320', '--shape 64')]
    batch = pick('--batch-size 64', '--batch-size 2')
    checkpoint = 'demo/epoch_3.pth' if cuda else 'demo/epoch_1.pth'
    amp = ['tools/train.py', DEMO, '--work-dir', 'amp', '--amp',
           *set_loaders('train', 'val')]
    steps = [
        check('facts', 60, 'facts'),
        check('core', 150, 'synchronization', 'memory', 'meter', 'recompute'),
        check('modes', 90, 'modes'),
        Step('operators', 150, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
             'tests/test_ops', *pick(
                 'tests/test_models/test_recompute_cuda.py::'
                 'test_nothing_changes_on_a_gpu -k cuda', '-k nms')),
        Step('data', 60, 'tools/dataset_converters/make_shapes.py',
             'data/shapes', *pick('--num-train 1400 --num-val 200',
                                  '--num-train 8 --num-val 4'),
             makes='data/shapes'),
        Step('demo', 150, 'tools/train.py', DEMO, '--work-dir', 'demo',
             '--resume', *set_loaders('train', 'val'),
             *([] if cuda else train_epochs(1)),
             makes=checkpoint, needs=['data']),
        # The paper's Table 4 in the paper's conditions: batch 1.
        table('table4', 180, '--paper', 'table4', '--nms', 'out', *tiny,
              energy=True, plot=True),
        # Large batches hide the time that launches take.
        table('batch64', 150, *six, *batch, *pick(
            '--dtype bf16 --channels-last'), energy=True, plot=True),
        table('table2', 150, '--paper', 'table2', 'table3', '--nms', 'out',
              *pick('', '--shape 300'), energy=True, plot=True),
        table('batch1', 150, *six, '--optimize', *pick(
            'eager graph bf16 bf16-graph', 'eager fold')),
        Step('training', 90, 'tools/analysis_tools/training_memory.py',
             *pick('V1-39 V2-39 V2-99 --shape 512 --batch-size 16',
                   'V1-39 --shape 64 --batch-size 1 --rounds 1'),
             *device, '--overwrite', '--out', '{results}/training.json',
             '{results}/training.md'),
        table('table4_graph', 180, '--paper', 'table4', '--nms', 'out', *tiny,
              '--optimize', *pick('graph', 'fold'), energy=True),
        table('batch64_fp32', 90, *six, *batch, '--optimize',
              *pick('eager graph', 'eager')),
        check('compiled', 240, 'compile', 'fp16-compile', 'bf16-compile'),
        # Late, because NCCL may hang.
        check('ddp', 40, 'ddp'),
        Step('optimized', 60, 'tools/test.py', DEMO, checkpoint, '--work-dir',
             'test', *set_loaders('test'), '--optimize',
             *pick('fp16', 'fold'), needs=['data', 'demo'])]
    if cuda:
        steps += [
            Step('amp', 90, *amp, 'model.backbone.with_cp=pointwise',
                 *train_epochs(1), makes='amp/epoch_1.pth', needs=['data']),
            Step('amp_resumed', 90, *amp, 'model.backbone.with_cp=block',
                 *train_epochs(2), '--resume', needs=['data', 'amp'])]
    return steps


def stop(message):
    """Exit with a message of one line."""
    sys.exit('gpu: ' + message)


class Session:
    """Steps and their states in a work folder.

    Attributes:
        work: Work folder, in which steps run.
        results: Folder of results and logs.
        state: Status, seconds, limit and last line of each step that has run.
        min_seconds: Time left without which no step starts.
    """
    min_seconds = 15

    def __init__(self, folder, steps, deadline, only=None, say=print):
        self.work = Path(folder).resolve()
        self.results = self.work / 'results'
        (self.results / 'logs').mkdir(parents=True, exist_ok=True)
        self.steps = {step.name: step for step in steps}
        self.only = [name for name in self.steps if not only or name in only]
        self.end = time.monotonic() + deadline
        self.say = say
        self._file = self.results / 'steps.json'
        try:
            self.state = json.loads(self._file.read_text())
        except (OSError, ValueError):
            self.state = {}

    def is_done(self, name):
        """Return whether a step has been done, here or on another machine."""
        return self.state.get(name, {}).get('status') == 'done'

    def has_product(self, step):
        """Return whether the product of a step is in the work folder."""
        return (self.work / step.makes).exists()

    def must_run(self, step):
        """Return whether a step is not done, or its product is missed."""
        if not self.is_done(step.name):
            return True
        users = [self.steps[name] for name in self.only
                 if step.name in self.steps[name].needs]
        return not self.has_product(step) and any(map(self.must_run, users))

    def run(self):
        """Run the steps and return the names of those that are not done."""
        for name in self.only:
            self._run(self.steps[name])
        return [name for name in self.only if not self.is_done(name)]

    def _run(self, step):
        if not self.must_run(step):
            self.say(f'gpu: {step.name:14} done before')
            return
        missing = [name for name in step.needs if not self.is_done(name)
                   or not self.has_product(self.steps[name])]
        if missing:
            self._record(step, 'not run', 0, 'needs ' + ', '.join(missing))
            return
        limit = min(step.limit, self.end - time.monotonic())
        if limit < min(self.min_seconds, step.limit):
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
                stderr=subprocess.STDOUT, env=self._make_environment(),
                start_new_session=True)
            status = self._wait(process, limit)
        seconds = time.monotonic() - start
        tail = log.read_bytes()[-3000:].decode(errors='replace').strip()
        last = '' if status == 'done' else tail.rpartition('\n')[2]
        self._record(step, status, seconds, last, limit)

    def _wait(self, process, limit):
        """Wait for a process, and kill its process group afterwards."""
        try:
            code = process.wait(limit)
            return 'done' if code == 0 else f'failed ({code})'
        except subprocess.TimeoutExpired:
            return 'cut off'
        finally:
            for number in signal.SIGTERM, signal.SIGKILL:
                try:
                    os.killpg(process.pid, number)
                    process.wait(3)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    pass

    def _make_environment(self):
        paths = [str(self.work / 'site'), str(ROOT / 'projects')]
        if old := os.environ.get('PYTHONPATH'):
            paths.append(old)
        return dict(os.environ, MPLBACKEND='Agg', PYTHONUNBUFFERED='1',
                    COLUMNS='200', PYTHONPATH=os.pathsep.join(paths))

    def _record(self, step, status, seconds, last='', limit=None):
        """Save the state of a step at once, and print it."""
        self.state[step.name] = dict(
            status=status, seconds=round(seconds, 1),
            limit=limit and round(limit), last=last[:500],
            at=time.strftime('%F %T'))
        part = self._file.with_suffix('.part')
        part.write_text(json.dumps(self.state, indent=1))
        part.replace(self._file)
        self.say(f'gpu: {step.name:14} {status}, {seconds:.0f} s '
                 f'({self.end - time.monotonic():.0f} s left)'
                 + (f': {last[:300]}' if last else ''))


def install_wheels(wheels, site):
    """Install the wheels of a folder, if there are any, into another."""
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
             f'make gpu-wheels WHEELS_PYTHON={version} on a machine with '
             'internet and copy .wheels again')
    shutil.rmtree(site, ignore_errors=True)
    part.rename(site)


def find_missing_packages():
    """List the packages that cannot be imported."""
    importlib.invalidate_caches()
    return [name for name in PACKAGES
            if importlib.util.find_spec(name) is None]


def check_machine(cuda):
    """Stop if packages or the GPU are missing."""
    if missing := find_missing_packages():
        stop(f'{sys.executable} has no {", ".join(missing)}; run make '
             'gpu-wheels on a machine with internet and copy the folder '
             '.wheels here, or run make setup and then make gpu')
    if cuda:
        import torch
        if not torch.cuda.is_available():
            stop(f'torch {torch.__version__} finds no CUDA device; make gpu '
                 'DEVICE=cpu is the dry run')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', help='work folder, with results below')
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda',
                        help='cpu is the dry run, with the smallest sizes')
    parser.add_argument('--seconds', type=float, default=530,
                        help='time for all steps (default: 530)')
    parser.add_argument('--wheels', default=ROOT / '.wheels', type=Path,
                        help='folder of wheels with missing packages')
    parser.add_argument('--only', nargs='+', metavar='STEP',
                        help='run these steps only')
    args = parser.parse_args()
    names = [step.name for step in make_steps(args.device == 'cuda')]
    if unknown := set(args.only or ()) - set(names):
        parser.error(f'--only: no step {", ".join(unknown)}; choose from '
                     f'{", ".join(names)}')
    if not 20 <= args.seconds < float('inf'):
        parser.error(f'--seconds {args.seconds:g}: give at least 20')
    return args


def prepare(args):
    """Make the work folder, and find or install the packages."""
    try:
        os.makedirs(args.folder, exist_ok=True)
    except OSError as error:
        stop(f'{args.folder}: {error.strerror}; choose another folder')
    site = Path(args.folder).resolve() / 'site'
    sys.path.insert(0, str(site))
    if find_missing_packages():
        install_wheels(args.wheels, site)
    check_machine(args.device == 'cuda')


def main():
    start = time.monotonic()
    args = parse_args()
    prepare(args)
    session = Session(args.folder, make_steps(args.device == 'cuda'),
                      args.seconds - (time.monotonic() - start), args.only)
    # Both signals end the running step, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        not_done = session.run()
    except KeyboardInterrupt:
        stop('interrupted; run it again to continue')
    print(f'gpu: results in {session.results}')
    if not_done:
        stop(f'not done: {", ".join(not_done)}; see the logs in '
             f'{session.results / "logs"} and run it again')


if __name__ == '__main__':
    main()
