"""Make or update the project's environment, `.venv`; called by make.

Standard library only, and readable by any Python 3, so that a wrong one is
told so. Compiles nothing. Done already: says so and ends at once.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))

OLDEST, NEWEST = (3, 10), (3, 14)  # the newest that the tests have run on
# Measured: 6.0 GB installed (5.1 of it torch's CUDA build) and up to 3.0 GB
# of wheels on their way; 1.9 GB where TORCH_INDEX has a build without CUDA.
NEEDED_GB, NEEDED_GB_CPU, NEEDED_GB_KEPT = 9, 3, 1

OPENMMLAB = ('mmengine', 'mmcv-lite', 'mmdet', 'mmpretrain')

# Run inside the environment: which distributions provide OpenMMLab's packages,
# and the versions of torch and torchvision.
LOOK = '''
import importlib.metadata as m, json
names = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain')
found = {n: [] for n in names}
torch = {}
for d in m.distributions():
    name = (d.metadata['Name'] or '').lower()
    if name in ('torch', 'torchvision'):
        torch[name] = d.version
    for n in names:
        if name in (n, n + '-lite', 'onedl-' + n) or (
                n == 'mmdet' and name == 'onedl-mmdetection'):
            found[n].append(name)
print(json.dumps([{n: sorted(set(v)) for n, v in found.items()}, torch]))
'''


def stop(message):
    """End with one line."""
    sys.exit('setup: ' + message)


def say(message):
    """Write a line at once, before what pip writes."""
    print('setup: ' + message, flush=True)


def release(version):
    """Read the numbers of a version: '2.13+cpu' is (2, 13, 0)."""
    found = re.match(r'\d+(\.\d+)*', version)
    numbers = list(map(int, found.group().split('.'))) if found else []
    return tuple((numbers + [0, 0, 0])[:3])


def is_same(installed, wanted):
    """Tell whether an installed version is the one that is wanted."""
    local = wanted.partition('+')[2]
    return release(installed) == release(wanted) and (
        not local or local == installed.partition('+')[2])


def oldest_torch():
    """Read the oldest torch that will do from pyproject.toml."""
    with open(os.path.join(ROOT, 'pyproject.toml')) as f:
        return re.search(r'"torch>=([\d.]+)"', f.read()).group(1)


def check_python():
    """Stop on a Python that is too old or cannot make an environment."""
    have = '%d.%d' % sys.version_info[:2]
    if sys.version_info[:2] < OLDEST:
        stop('Python %s (%s) is too old, %d.%d or later is needed: '
             'make PYTHON=/path/to/python3 ...'
             % ((have, sys.executable) + OLDEST))
    if sys.version_info[:2] > NEWEST:
        say('Python %s has not been tried; %d.%d to %d.%d have'
            % ((have,) + OLDEST + NEWEST))
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop('Python %s has no venv module: on Debian and Ubuntu, '
             'apt-get install python%s-venv' % (have, have))


def check_torch(version, where):
    """Stop on a version of torch that will not do."""
    oldest = oldest_torch()
    if not re.match(r'\d+\.\d+(\.\d+)?([a-z+][\w.+]*)?$', version):
        stop('%s is no version of torch; write it like TORCH=%s'
             % (where, oldest))
    if release(version) < release(oldest):
        stop('%s is too old, torch %s or later is needed; name one with '
             'make setup TORCH=...' % (where, oldest))


def check_disk(needed):
    """Stop where the environment would not fit."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        stop('%.1f GB are free at %s, %d GB are needed: make room, or move '
             'the checkout to a larger disk' % (free, ROOT, needed))


def fingerprint():
    """Hash what the environment is made from."""
    digest = hashlib.sha256(sys.version.encode())
    files = [os.path.join('requirements', n)
             for n in sorted(os.listdir(os.path.join(ROOT, 'requirements')))]
    files += ['setup.py', 'pyproject.toml']
    for name in files:
        with open(os.path.join(ROOT, name), 'rb') as f:
            digest.update(name.encode() + f.read())
    # An environment does not survive a move.
    return digest.hexdigest() + ' ' + ROOT


class Environment:
    """A virtual environment and the note of what it was made from."""

    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        self.python = os.path.join(self.folder, 'bin', 'python')
        self.stamp = os.path.join(self.folder, 'vovnet-setup.json')

    def is_of_uv(self):
        """Tell whether uv has made it, which then looks after it."""
        try:
            with open(os.path.join(self.folder, 'pyvenv.cfg')) as f:
                return any(line.startswith('uv ') for line in f)
        except OSError:
            return False

    def note(self):
        """Read the note; empty if there is none."""
        try:
            with open(self.stamp) as f:
                return json.load(f)
        except (OSError, ValueError):
            return {}

    def write_note(self, source, index):
        """Note what it was made from, and the index of its torch."""
        with open(self.stamp, 'w') as f:
            json.dump({'source': source, 'index': index}, f)

    def is_usable(self):
        """Tell whether it is there; stop where it is another's or no such."""
        if os.path.exists(self.python):
            version = subprocess.run(
                [self.python, '-c',
                 'import pip, sys; print(*sys.version_info[:2])'],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            if version.returncode == 0:
                if version.stdout.split() != [b'%d' % n for n in
                                              sys.version_info[:2]]:
                    stop('.venv has Python %s, this is %d.%d: remove .venv, '
                         'or make PYTHON=... with the same version' % (
                             version.stdout.decode().strip().replace(
                                 ' ', '.'), *sys.version_info[:2]))
                return True
        if os.path.exists(os.path.join(self.folder, 'pyvenv.cfg')):
            say('.venv is broken, making it anew')
        elif os.path.lexists(self.folder) and not (
                os.path.isdir(self.folder) and not os.listdir(self.folder)):
            stop('%s is there and is no environment: move it away'
                 % self.folder)
        return False

    def make(self):
        """Create it, or create it anew."""
        subprocess.run([sys.executable, '-m', 'venv', '--clear', self.folder],
                       check=True)

    def look(self):
        """Ask who provides OpenMMLab, and for torch; stop where two do.

        Returns the distributions of OpenMMLab, whether each package has one,
        and the versions of torch and torchvision.
        """
        out = subprocess.run([self.python, '-c', LOOK], check=True,
                             stdout=subprocess.PIPE).stdout
        found, torch = json.loads(out.decode())
        for name, dists in found.items():
            if len(dists) > 1:
                stop('%s comes from two distributions in .venv, %s: they '
                     'overwrite each other. Keep one: .venv/bin/pip uninstall '
                     '%s, then install the other again; or remove .venv and '
                     'run make once more'
                     % (name, ' and '.join(dists), ' '.join(dists)))
        dists = [d for v in found.values() for d in v]
        if len({d.startswith('onedl-') for d in dists}) > 1:
            stop('.venv mixes official and onedl distributions, %s: remove '
                 '.venv and run make once more' % ', '.join(dists))
        return dists, all(found.values()), torch

    def pip(self, *args):
        """Install, or stop."""
        code = subprocess.run(
            [self.python, '-m', 'pip', 'install',
             '--disable-pip-version-check'] + list(args), cwd=ROOT).returncode
        if code:
            stop('pip ended with %d; its reason stands above. Mend it (no '
                 'network? no room? no such torch for this Python?) and run '
                 'make again: it goes on from here' % code)


def torch_arguments(have, wanted, index, known_index):
    """Tell pip which torch, or nothing where the installed one stays.

    Args:
        have (dict): Versions of the installed torch and torchvision.
        wanted (str): Version that was asked for, or empty.
        index (str): Where to look for it, or empty for where the installed
            one came from.
        known_index (str): Where that is, or empty for pip's own.
    """
    installed = have.get('torch')
    if installed and not wanted:
        check_torch(installed, 'torch %s, which .venv has,' % installed)
    stays = installed and (not wanted or is_same(installed, wanted))
    if stays and index not in ('', known_index):
        stop('.venv has torch %s already, which would stay; for the build of '
             '%s remove .venv first' % (installed, index))
    if stays and 'torchvision' in have:
        return []
    index = index or known_index
    source = ['--index-url', index] if index else []
    version = installed if stays else wanted
    if version:
        return source + ['torch==' + version, 'torchvision']
    return source + ['-r', 'requirements/torch.txt']


def parse_args(argv=None):
    """Read the command line, where an empty value counts as none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', default=os.path.join(ROOT, '.venv'))
    parser.add_argument('--torch', default='', metavar='VERSION',
                        help='default: as in requirements/torch.txt, or the '
                        'one that is installed')
    parser.add_argument('--torch-index', default='', metavar='URL',
                        help="index of torch's packages, such as one of "
                        'builds for the CPU alone')
    return parser.parse_args(argv)


def main(argv=None):
    """Bring the environment up to date."""
    args = parse_args(argv)
    check_python()
    if args.torch:
        check_torch(args.torch, 'TORCH=' + args.torch)
    env = Environment(args.venv)
    if env.is_of_uv():
        if args.torch or args.torch_index:
            stop('.venv was made by uv, which chooses its torch: remove .venv '
                 'to have it made here')
        say('.venv is left to uv, which has made it: uv sync')
        return
    note, source = env.note(), fingerprint()
    known_index = note.get('index', '')
    usable = env.is_usable()
    dists, complete, have = env.look() if usable else ([], False, {})
    torch = torch_arguments(have, args.torch, args.torch_index, known_index)
    if complete and not torch and note.get('source') == source:
        say('.venv is up to date')
        return
    index = args.torch_index or known_index
    check_disk(NEEDED_GB_KEPT if not torch else
               NEEDED_GB_CPU if index else NEEDED_GB)
    start = time.time()
    say('making .venv with Python %d.%d; usually 2 to 4 minutes'
        % sys.version_info[:2])
    if not usable:
        env.make()
    # At once, for a run that goes on from here.
    env.write_note('', index)
    if torch:
        say('[1/4] PyTorch (3.0 GB to download, 0.2 for the CPU alone; '
            'usually 1-3 minutes)')
        env.pip(*torch)
    else:
        say('[1/4] kept torch %(torch)s and torchvision %(torchvision)s, '
            'which .venv has' % have)
    say('[2/4] what OpenMMLab needs, export and the test tools (usually 20 '
        'seconds)')
    env.pip('--no-deps', '-r', 'requirements/constraints.txt')
    if set(dists) <= set(OPENMMLAB):
        say('[3/4] OpenMMLab (usually 5 seconds; nothing is compiled)')
        env.pip('--no-deps', '-r', 'requirements/mminstall.txt')
    else:
        say('[3/4] kept the OpenMMLab distributions that .venv has: '
            + ', '.join(dists))
    say('[4/4] this project, in place (usually 5 seconds)')
    env.pip('--no-deps', '--no-build-isolation', '-e', '.')
    _, _, have = env.look()
    env.write_note(source, index)
    say('done in %d s, with torch %s' % (time.time() - start, have['torch']))


if __name__ == '__main__':
    main()
