"""Make or update the project's environment, `.venv`; called by make.

Standard library only, and readable by any Python 3, so that a wrong one is
told so. Compiles nothing. Done already: says so and ends at once.
"""
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
VENV = os.path.join(ROOT, '.venv')
PYTHON = os.path.join(VENV, 'bin', 'python')
STAMP = os.path.join(VENV, 'vovnet-setup.json')

OLDEST, NEWEST = (3, 10), (3, 12)
# Measured: 5.3 GB installed (4.7 of it torch's CUDA build) and up to 2.9 GB
# of wheels on their way.
NEEDED_GB = 9

STEPS = (
    ('PyTorch (2.7 GB to download; usually 1-3 minutes)',
     ['-r', 'requirements/torch.txt']),
    ('what OpenMMLab needs, and the test tools (usually 20 seconds)',
     ['-r', 'requirements/runtime.txt', '-r', 'requirements/tests.txt']),
    ('OpenMMLab (usually 5 seconds; nothing is compiled)',
     ['--no-deps', '-r', 'requirements/mminstall.txt']),
    ('this project, in place (usually 5 seconds)',
     ['--no-deps', '--no-build-isolation', '-e', '.']),
)

# Run inside .venv: which distributions provide each OpenMMLab package.
LIST_PROVIDERS = '''
import importlib.metadata as m, json
names = ('mmengine', 'mmcv', 'mmdet', 'mmpretrain')
found = {n: [] for n in names}
for d in m.distributions():
    name = (d.metadata['Name'] or '').lower()
    for n in names:
        if name in (n, n + '-lite', 'onedl-' + n) or (
                n == 'mmdet' and name == 'onedl-mmdetection'):
            found[n].append(name)
print(json.dumps({n: sorted(set(v)) for n, v in found.items()}))
'''


def stop(message):
    """End with one line."""
    sys.exit('setup: ' + message)


def check_python():
    """Stop on a Python that the pinned stack has no wheels for."""
    have = '%d.%d' % sys.version_info[:2]
    want = '%d.%d to %d.%d' % (OLDEST + NEWEST)
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        stop('Python %s (%s) will not do, %s is needed: '
             'make PYTHON=/path/to/python3.11 ...'
             % (have, sys.executable, want))
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        stop('Python %s has no venv module: on Debian and Ubuntu, '
             'apt-get install python%s-venv' % (have, have))


def check_disk():
    """Stop where the environment would not fit."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB:
        stop('%.1f GB are free at %s, %d GB are needed: make room, or move '
             'the checkout to a larger disk' % (free, ROOT, NEEDED_GB))


def providers():
    """Ask the environment who provides what; stop where two do."""
    out = subprocess.run([PYTHON, '-c', LIST_PROVIDERS], check=True,
                         stdout=subprocess.PIPE).stdout
    found = json.loads(out)
    for name, dists in found.items():
        if len(dists) > 1:
            stop('%s comes from two distributions in .venv, %s: they '
                 'overwrite each other. Keep one: .venv/bin/pip uninstall %s, '
                 'then install the other again; or remove .venv and run make '
                 'once more' % (name, ' and '.join(dists), ' '.join(dists)))
    kinds = {d.startswith('onedl-') for v in found.values() for d in v}
    if len(kinds) > 1:
        stop('.venv mixes official and onedl distributions, %s: remove .venv '
             'and run make once more' % ', '.join(
                 d for v in found.values() for d in v))
    return found


def fingerprint():
    """Hash what the environment is made from."""
    digest = hashlib.sha256(sys.version.encode())
    files = [os.path.join('requirements', n)
             for n in sorted(os.listdir(os.path.join(ROOT, 'requirements')))]
    files += ['setup.cfg', 'setup.py', 'pyproject.toml']
    for name in files:
        with open(os.path.join(ROOT, name), 'rb') as f:
            digest.update(name.encode() + f.read())
    # An environment does not survive a move.
    return digest.hexdigest() + ' ' + ROOT


def is_done(mark):
    """Tell whether the environment was made from what is here now."""
    try:
        with open(STAMP) as f:
            return json.load(f) == mark
    except (OSError, ValueError):
        return False


def make_venv():
    """Create `.venv`, or check that the one that is there can be used."""
    if os.path.exists(PYTHON):
        version = subprocess.run(
            [PYTHON, '-c', 'import pip, sys; print(*sys.version_info[:2])'],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if version.returncode == 0:
            if version.stdout.split() != [b'%d' % n for n in
                                          sys.version_info[:2]]:
                stop('.venv has Python %s, this is %d.%d: remove .venv, or '
                     'make PYTHON=... with the same version' % (
                         version.stdout.decode().strip().replace(' ', '.'),
                         *sys.version_info[:2]))
            return
        print('setup: .venv is broken, making it anew', flush=True)
    elif os.path.exists(VENV) and os.listdir(VENV):
        stop('%s is there and is no environment: move it away' % VENV)
    subprocess.run([sys.executable, '-m', 'venv', '--clear', VENV],
                   check=True)


def main():
    """Bring `.venv` up to date."""
    check_python()
    mark = fingerprint()
    if is_done(mark):
        providers()
        print('setup: .venv is up to date')
        return
    check_disk()
    start = time.time()
    print('setup: making .venv with Python %d.%d; usually 2 to 4 minutes'
          % sys.version_info[:2], flush=True)
    make_venv()
    found = providers()
    for i, (what, args) in enumerate(STEPS):
        print('setup: [%d/%d] %s' % (i + 1, len(STEPS), what), flush=True)
        if 'requirements/mminstall.txt' in args and any(
                d not in ('mmengine', 'mmcv-lite', 'mmdet', 'mmpretrain')
                for v in found.values() for d in v):
            print('setup: kept the OpenMMLab distributions that .venv has: '
                  + ', '.join(d for v in found.values() for d in v))
            continue
        code = subprocess.run(
            [PYTHON, '-m', 'pip', 'install', '--disable-pip-version-check',
             '-c', 'requirements/constraints.txt'] + args, cwd=ROOT).returncode
        if code:
            stop('pip ended with %d; its reason stands above. Mend it (no '
                 'network? no room?) and run make again: it goes on from here'
                 % code)
    providers()
    with open(STAMP, 'w') as f:
        json.dump(mark, f)
    print('setup: done in %d s' % (time.time() - start))


if __name__ == '__main__':
    main()
