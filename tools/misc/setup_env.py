"""Make or update the project's environment, `.venv`; called by make.

Standard library only, and every Python 3 can read it, so that one that is too
old is told so. Compiles nothing, and ends at once where nothing is to be done.
"""
import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST, NEWEST = (3, 10), (3, 14)  # the Pythons that the tests have run on
OLDEST_TORCH = '2.6'
# Measured: 6.0 GB installed (5.1 of it torch's CUDA build) and up to 3.0 GB
# of wheels on their way; 1.9 GB where TORCH_INDEX has a build without CUDA.
NEEDED_GB, NEEDED_GB_CPU, NEEDED_GB_KEPT = 9, 3, 1

OPENMMLAB = ('mmengine', 'mmcv-lite', 'mmdet', 'mmpretrain')
# The distributions that provide each of OpenMMLab's packages.
PROVIDERS = {
    'mmengine': {'mmengine', 'onedl-mmengine'},
    'mmcv': {'mmcv', 'mmcv-lite', 'onedl-mmcv'},
    'mmdet': {'mmdet', 'onedl-mmdet', 'onedl-mmdetection'},
    'mmpretrain': {'mmpretrain', 'onedl-mmpretrain'}}
# Run inside the environment.
LIST_VERSIONS = '''
import importlib.metadata, json
print(json.dumps({(d.metadata['Name'] or '').lower(): d.version
                  for d in importlib.metadata.distributions()}))
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
    """Tell whether an installed version is the wanted one."""
    build = wanted.partition('+')[2]
    return release(installed) == release(wanted) and (
        not build or build == installed.partition('+')[2])


def check_python():
    """Stop on a Python that is too old or cannot make an environment."""
    version = '%d.%d' % sys.version_info[:2]
    if sys.version_info[:2] < OLDEST:
        stop('Python %s (%s) is too old; run make PYTHON=/path/to/python3 '
             'with Python %d.%d or later'
             % ((version, sys.executable) + OLDEST))
    if sys.version_info[:2] > NEWEST:
        say('Python %s has not been tried; %d.%d to %d.%d have'
            % ((version,) + OLDEST + NEWEST))
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop('Python %s has no venv module; on Debian and Ubuntu run '
             'apt-get install python%s-venv' % (version, version))


def check_torch(version, where):
    """Stop on a version of torch that does not work."""
    if not re.match(r'\d+\.\d+(\.\d+)?([a-z+][\w.+]*)?$', version):
        stop('%s is not a version of torch; write it like TORCH=%s'
             % (where, OLDEST_TORCH))
    if release(version) < release(OLDEST_TORCH):
        stop('%s is too old; run make setup TORCH=... with torch %s or later'
             % (where, OLDEST_TORCH))


def check_disk(needed):
    """Stop where the environment would not fit."""
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < needed:
        stop('only %.1f GB are free at %s, %d GB are needed; make room, or '
             'move the checkout to a larger disk' % (free, ROOT, needed))


def compute_fingerprint():
    """Hash what the environment is made from."""
    digest = hashlib.sha256(sys.version.encode())
    files = sorted((ROOT / 'requirements').iterdir())
    for path in files + [ROOT / 'setup.py', ROOT / 'pyproject.toml']:
        digest.update(path.name.encode() + path.read_bytes())
    # An environment does not survive a move.
    return '%s %s' % (digest.hexdigest(), ROOT)


class Environment:
    """A virtual environment, and a note in it of what it was made from."""

    def __init__(self, folder):
        self.folder = Path(folder).absolute()
        self.python = self.folder / 'bin' / 'python'
        self.config = self.folder / 'pyvenv.cfg'
        self.note = self.folder / 'vovnet-setup.json'

    def is_from_uv(self):
        """Tell whether uv has made it."""
        return self.config.exists() and re.search(
            '^uv ', self.config.read_text(), re.M)

    def read_note(self):
        """Return the note; empty if there is none."""
        try:
            return json.loads(self.note.read_text())
        except (OSError, ValueError):
            return {}

    def write_note(self, source, index):
        """Note the fingerprint, and the index that torch came from."""
        self.note.write_text(json.dumps({'source': source, 'index': index}))

    def is_usable(self):
        """Tell whether it exists and works; stop where it must not be made."""
        done = None
        if self.python.exists():
            done = subprocess.run(
                [str(self.python), '-c',
                 'import pip, sys; print("%d.%d" % sys.version_info[:2])'],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if done and done.returncode == 0:
            version, wanted = done.stdout.decode().strip(), '%d.%d' % (
                sys.version_info[:2])
            if version != wanted:
                stop('.venv has Python %s, this is %s; remove .venv, or run '
                     'make PYTHON=... with the same version'
                     % (version, wanted))
            return True
        occupied = (any(self.folder.iterdir()) if self.folder.is_dir()
                    else self.folder.exists() or self.folder.is_symlink())
        if self.config.exists():
            say('.venv is broken, making it anew')
        elif occupied:
            stop('%s exists and is not an environment; move it away'
                 % self.folder)
        return False

    def create(self):
        """Create it, or create it anew."""
        done = subprocess.run([sys.executable, '-m', 'venv', '--clear',
                               str(self.folder)])
        if done.returncode:
            stop('%s cannot be made; mend what stands above and run the same '
                 'command again' % self.folder)

    def list_packages(self):
        """List the distributions of OpenMMLab; stop where two collide.

        Returns:
            Their names, whether all packages are there, and the versions of
            torch and torchvision.
        """
        versions = json.loads(subprocess.run(
            [str(self.python), '-c', LIST_VERSIONS], check=True,
            stdout=subprocess.PIPE).stdout.decode())
        found = {package: sorted(names.intersection(versions))
                 for package, names in PROVIDERS.items()}
        for package, names in found.items():
            if len(names) > 1:
                stop('%s comes from two distributions in .venv, %s, which '
                     'overwrite each other; run .venv/bin/pip uninstall %s '
                     'and install one of them again'
                     % (package, ' and '.join(names), ' '.join(names)))
        names = sum(found.values(), [])
        if len({name.startswith('onedl-') for name in names}) > 1:
            stop('.venv mixes official and onedl distributions, %s; remove '
                 '.venv and run make again' % ', '.join(names))
        return names, all(found.values()), {
            name: versions[name] for name in ('torch', 'torchvision')
            if name in versions}

    def install(self, *args):
        """Run pip install; stop if it fails."""
        status = subprocess.run(
            [str(self.python), '-m', 'pip', 'install',
             '--disable-pip-version-check'] + list(args),
            cwd=str(ROOT)).returncode
        if status:
            stop('pip ended with %d, for the reason above (no network? disk '
                 'full? no such torch for this Python?); mend it and run '
                 'make again, which goes on from here' % status)


def choose_torch(installed, wanted, index, known_index):
    """Choose pip's arguments for torch.

    Args:
        installed (dict): Versions of torch and torchvision.
        wanted (str): Version that was asked for, or empty.
        index (str): Package index that was asked for, or empty.
        known_index (str): Where the installed torch came from, or empty for
            pip's default.

    Returns:
        list[str]: Empty if the installed torch stays.
    """
    version = installed.get('torch')
    if version and not wanted:
        check_torch(version, 'torch %s, which .venv has,' % version)
    stays = version and (not wanted or is_same(version, wanted))
    if stays and index not in ('', known_index):
        stop('.venv has torch %s already, which would stay; remove .venv to '
             'have the build of %s' % (version, index))
    if stays and 'torchvision' in installed:
        return []
    index = index or known_index
    source = ['--index-url', index] if index else []
    version = version if stays else wanted
    if version:
        return source + ['torch==' + version, 'torchvision']
    return source + ['-r', 'requirements/torch.txt']


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', default=str(ROOT / '.venv'))
    parser.add_argument('--torch', default='', metavar='VERSION',
                        help='default: the installed one, or that of '
                        'requirements/torch.txt')
    parser.add_argument('--torch-index', default='', metavar='URL',
                        help='package index of torch, such as that of the '
                        'builds for the CPU alone')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    check_python()
    if args.torch:
        check_torch(args.torch, 'TORCH=' + args.torch)
    env = Environment(args.venv)
    if env.is_from_uv():
        if args.torch or args.torch_index:
            stop('.venv was made by uv, which chooses its torch; remove .venv '
                 'to have it made here')
        say('.venv was made by uv and is left to it: uv sync')
        return
    note, source = env.read_note(), compute_fingerprint()
    known_index = note.get('index', '')
    usable = env.is_usable()
    names, complete, installed = (
        env.list_packages() if usable else ([], False, {}))
    torch = choose_torch(installed, args.torch, args.torch_index, known_index)
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
        env.create()
    # At once, for a run that goes on from here.
    env.write_note('', index)
    if torch:
        say('[1/4] PyTorch (3.0 GB to download, 0.2 for the CPU alone; '
            'usually 1-3 minutes)')
        env.install(*torch)
    else:
        say('[1/4] kept the installed torch %(torch)s and torchvision '
            '%(torchvision)s' % installed)
    say('[2/4] what OpenMMLab needs, export and the test tools (usually 20 '
        'seconds)')
    env.install('--no-deps', '-r', 'requirements/constraints.txt')
    if set(names) <= set(OPENMMLAB):
        say('[3/4] OpenMMLab (usually 5 seconds; nothing is compiled)')
        env.install('--no-deps', '-r', 'requirements/mminstall.txt')
    else:
        say('[3/4] kept the installed OpenMMLab: ' + ', '.join(names))
    say('[4/4] this project, in place (usually 5 seconds)')
    env.install('--no-deps', '--no-build-isolation', '-e', '.')
    installed = env.list_packages()[2]
    env.write_note(source, index)
    say('done in %d s, with torch %s'
        % (time.time() - start, installed['torch']))


if __name__ == '__main__':
    main()
