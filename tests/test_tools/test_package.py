"""What an installation brings: operators, configs and tools.

The package is installed into a fresh environment that borrows this one's
other packages. Its Python runs the start-up hook as any user's does.
"""
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from zipfile import ZipFile

import modelindex
import pytest
import yaml
from mmengine.config import Config
from mmengine.hub import get_config

import vovnet
from vovnet import requirements
from vovnet.version import OLDEST_TORCH

ROOT = Path(__file__).parents[2]
PROJECTS = ROOT / 'projects'
HOOK = 'vovnet_mmcv_ext'


def run(*command, env=None, cwd=None):
    """Run a command, which must succeed, and return what it wrote."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | (
        env or {})
    done = subprocess.run(
        list(map(str, command)), env=env, cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_code(code, *folders, **options):
    """Run Python code that finds this project and what the folders have."""
    return run(sys.executable, '-c', code, **options, env={
        'PYTHONPATH': os.pathsep.join(map(str, [*folders, PROJECTS]))})


def pip(python, *args):
    return run(sys.executable, '-m', 'pip', '--python', python,
               '--disable-pip-version-check', *args)


@pytest.fixture(scope='module', params=['editable', 'wheel'])
def installed(request, tmp_path_factory):
    """An environment's Python, its site-packages, and the checkout."""
    folder = tmp_path_factory.mktemp(request.param)
    checkout = folder / 'checkout'
    checkout.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'LICENSE',
                 'model-index.yml'):
        shutil.copy(ROOT / name, checkout)
    (checkout / 'README.md').touch()
    for name in ('projects', 'configs', 'tools'):
        shutil.copytree(
            ROOT / name, checkout / name, symlinks=True,
            ignore=shutil.ignore_patterns('__pycache__', '*.egg-info'))
    run(sys.executable, '-m', 'venv', '--without-pip', folder / 'venv')
    python = folder / 'venv' / 'bin' / 'python'
    site = Path(run(python, '-c',
                    'import sysconfig; print(sysconfig.get_path("purelib"))'
                    ).strip())
    # Paths in a .pth file are appended; .pth files found there are not read.
    borrowed = [p for p in sys.path if p.endswith('site-packages')]
    (site / 'borrowed.pth').write_text('\n'.join(borrowed))
    pip(python, 'install', '--no-index', '--no-deps', '--ignore-installed',
        '--no-build-isolation',
        *['-e'] * (request.param == 'editable'), checkout)
    return python, site, checkout


def read_files(root):
    """Read the files below a folder that a package should have."""
    return {str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob('*')
            if path.suffix in ('.py', '.yml', '.sh')}


# Prints where mim finds the package, by a function that mim has too, and runs
# a tool from there on configs.
SHOW_CONFIGS = '''
import runpy, sys
from mmengine.utils import get_installed_path
package = get_installed_path('vovnet')
print(package)
for config in sys.argv[1:]:
    sys.argv[1:] = [config]
    runpy.run_path(f'{package}/.mim/tools/misc/print_config.py', None,
                   '__main__')
'''


@pytest.mark.xdist_group('installed')
def test_mim_finds_everything(installed, tmp_path):
    python, site, checkout = installed
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'vovnet::retinanet/retinanet_vovnet-39_fpn_1x_coco.py'\n"
        "model = dict(backbone=dict(arch='V1-57'))\n")
    out = run(python, '-W', 'ignore', '-c', SHOW_CONFIGS, 'mine.py',
              'configs/retinanet/retinanet_vovnet-39_fpn_1x_coco.py',
              cwd=tmp_path)
    package, mine, theirs = out.split('\nConfig:\n')
    assert "arch='V1-57'" in mine and "type='RetinaNet'" in mine
    assert "arch='V1-39'" in theirs

    mim = Path(package) / '.mim'
    assert read_files(mim / 'configs') == read_files(checkout / 'configs')
    tools = read_files(checkout / 'tools')
    if Path(package) == site / 'vovnet':
        for name in ('setup_env', 'make_model_zoo', 'matrix'):
            del tools[f'misc/{name}.py']  # they are about the checkout
    else:
        # In place: what is changed here is changed there.
        assert Path(package) == checkout / 'projects/vovnet'
        assert (mim / 'configs').resolve() == checkout / 'configs'
    assert read_files(mim / 'tools') == tools

    # mim's own reader leaves out what it cannot read.
    index = modelindex.load(str(mim / 'model-index.yml'))
    wanted = [model['Config'] for path in checkout.glob('configs/*/*.yml')
              for model in yaml.safe_load(path.read_text())['Models']]
    assert sorted(model.config for model in index.models) == sorted(wanted)
    assert all((mim / path).is_file() for path in wanted)


@pytest.mark.xdist_group('installed')
@pytest.mark.parametrize('installed', ['wheel'], indirect=True)
def test_source_distribution_makes_the_same_wheel(installed, tmp_path):
    _, site, checkout = installed
    run(sys.executable, 'setup.py', 'sdist', '-d', tmp_path, cwd=checkout)
    source, = tmp_path.glob('*.tar.gz')
    with tarfile.open(source) as archive:
        assert not any(m.issym() or m.islnk() for m in archive.getmembers())
    run(sys.executable, '-m', 'pip', 'wheel', '--no-index', '--no-deps',
        '--no-build-isolation', '-w', tmp_path, source)
    wheel, = tmp_path.glob('*.whl')
    # For every Python, and so is what starts with it.
    assert wheel.name.endswith('-py3-none-any.whl')
    with ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith('.pth')
                ] == [f'{wheel.name.removesuffix("-py3-none-any.whl")}'
                      f'.data/purelib/{HOOK}.pth']
        held = {name.removeprefix('vovnet/'): archive.read(name)
                for name in archive.namelist() if name.startswith('vovnet/')}
    assert held == read_files(site / 'vovnet')


@pytest.mark.parametrize('name', [
    'cifar/osa-5-43_1xb64_cifar10.py',  # a classifier
    'dsod/dsod300_vovnet-27-slim_voc0712.py',  # nothing from mmdet's bases
    'faster_rcnn/faster-rcnn_vovnetv2-39_fpn_1x_coco.py',
])
def test_base_is_as_by_a_relative_path(name, tmp_path):
    """In which scope it is built, above all."""
    config = tmp_path / 'mine.py'
    config.write_text(f"_base_ = 'vovnet::{name}'")
    assert Config.fromfile(config).to_dict() == Config.fromfile(
        ROOT / 'configs' / name).to_dict()


def test_bases_of_other_packages_keep_their_scope(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'")
    assert Config.fromfile(config).model['_scope_'] == 'mmdet'


def test_hub_finds_the_imported_package_and_its_weights():
    name = 'faster_rcnn/faster-rcnn_vovnetv2-19_fpnlite_d2-3x_coco.py'
    cfg = get_config(f'vovnet::{name}', pretrained=True)
    assert cfg.filename == str(
        Path(vovnet.__file__).parent / '.mim/configs' / name)
    models = yaml.safe_load(
        (ROOT / 'configs/faster_rcnn/metafile.yml').read_text())['Models']
    assert [cfg.model_path] == [model['Weights'] for model in models
                                if model['Config'] == f'configs/{name}']


# Interpreters that a spawned data loader and pytest-xdist start.
WORKERS = '''
import sys
import torch
from torch.utils.data import DataLoader

class Boxes(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        from mmcv.ops import nms
        box = torch.tensor([[0., 0, i + 1, 2]])
        return nms(box, torch.ones(1), .5)[0]

def test_worker():
    import mmdet.models, mmdet.datasets
    assert 'vovnet' not in sys.modules
    assert Boxes()[0].shape == (1, 5)
    loader = DataLoader(Boxes(), num_workers=1,
                        multiprocessing_context='spawn')
    assert [int(b[0, 0, 2]) for b in loader] == [1, 2]
'''


@pytest.mark.slow
@pytest.mark.xdist_group('installed')
@pytest.mark.parametrize('installed', ['wheel'], indirect=True)
def test_hook_serves_other_programs(installed, tmp_path):
    """mmdet by itself, and fresh interpreters that nobody prepares."""
    (tmp_path / 'test_workers.py').write_text(WORKERS)
    assert '1 passed' in run(
        installed[0], '-m', 'pytest', '-n', '1', '-p', 'no:cacheprovider',
        'test_workers.py', cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.xdist_group('installed')
def test_hook(installed, tmp_path):
    python, site, checkout = installed

    # Starting Python brings the finder along, and nothing heavy.
    out = run(python, '-c', 'import sys; print(*sys.modules)\n'
              'print(sys.meta_path[-1].find_spec("mmcv._ext").origin)',
              cwd=tmp_path)
    modules, ext = out.splitlines()
    assert HOOK in modules.split()
    assert not {'torch', 'mmcv', 'mmengine', 'vovnet'} & set(modules.split())
    assert Path(ext).name == 'torchvision_ext.py' and Path(ext).is_file()
    cost = []
    for _ in range(5):
        out = run(python, '-X', 'importtime', '-c', '', cwd=tmp_path)
        cost.append(
            int(re.search(rf'\|\s*(\d+) \|\s+{HOOK}\n', out).group(1)))
    assert min(cost) < 10_000, f'{min(cost)} us'  # a hundredth second

    # A checkout that has moved leaves every start of Python silent.
    if (site / HOOK).with_suffix('.py').exists():
        (site / HOOK).with_suffix('.py').unlink()
    else:
        checkout.rename(checkout.with_name('moved'))
    assert run(python, '-c', 'print("silence")') == 'silence\n'

    pip(python, 'uninstall', '-y', 'vovnet')
    assert not list(site.glob(f'*{HOOK}*'))


@pytest.mark.slow
@pytest.mark.parametrize('module', ['vovnet', HOOK])
def test_one_import_is_enough(module, tmp_path):
    """For mmcv's operators and, from Python 3.14 on, pkgutil.find_loader."""
    out = run(sys.executable, '-W', 'error::UserWarning:mmcv', '-c',
              'import pkgutil\n'
              'if hasattr(pkgutil, "find_loader"): del pkgutil.find_loader\n'
              f'import {module}\n'
              'from mmcv.cnn.bricks import transformer\n'
              'import mmdet.models, mmcv.ops\n'
              'from mmengine.utils.dl_utils import mmcv_full_available\n'
              'from mmcv.utils.ext_loader import check_ops_exist\n'
              'assert pkgutil.find_loader("no_such_module") is None\n'
              'print(mmcv_full_available(), check_ops_exist())',
              env={'PYTHONPATH': str(PROJECTS)}, cwd=tmp_path)
    assert out == 'True True\n'


@pytest.fixture
def compiled(tmp_path):
    """The operators of a package ``mmcv`` that has its own ``_ext``."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').touch()
    return tmp_path / 'mmcv' / '_ext.py'


def test_compiled_operators_win(compiled, tmp_path):
    compiled.write_text('')
    code = f'import {HOOK}, mmcv._ext; print(mmcv._ext.__file__)'
    assert run_code(code, tmp_path) == f'{compiled}\n'


def test_broken_compiled_operators_are_not_hidden(compiled, tmp_path):
    compiled.write_text('raise ImportError("undefined symbol")')
    code = (f'import {HOOK}\ntry: import mmcv._ext\n'
            'except ImportError as error: print(error)')
    assert run_code(code, tmp_path) == 'undefined symbol\n'


def test_importing_twice_installs_once():
    assert run_code(
        f'import importlib, sys, {HOOK} as hook\n'
        'importlib.reload(hook); hook.install()\n'
        'print([f for f in sys.meta_path'
        ' if getattr(f, "__module__", "") == hook.__name__]'
        ' == sys.meta_path[-1:])') == 'True\n'


def run_without_packages(folder, *script):
    """Run a script where Python finds this project and what a folder has."""
    return subprocess.run(
        [sys.executable, '-S', *map(str, script)], text=True,
        capture_output=True, cwd=folder, env={
            'PYTHONPATH': f'{PROJECTS}:{folder}'})


ALL = 'vovnet needs torch, torchvision, mmengine, mmcv, '
FEW = 'vovnet needs torch, torchvision, mmcv, cv2, '


@pytest.mark.parametrize('there, code, told', [
    ([], 'import vovnet', ALL),
    (['mmengine'], 'import vovnet', FEW),
    (['mmengine', 'onnxruntime'], 'import vovnet', FEW),
    (['onnxruntime'], 'import vovnet', None),
    (['openvino'], 'import vovnet', None),
    (['onnxruntime'], 'from vovnet import models', ALL),
    (['onnxruntime'], 'import vovnet; vovnet.checkpoints', ALL),
    (['onnxruntime'], 'import vovnet; vovnet.cheese', "no attribute 'cheese'"),
])
def test_import_tells_what_is_missing(there, code, told, tmp_path):
    for name in there:
        (tmp_path / f'{name}.py').touch()
    done = run_without_packages(tmp_path, '-c', code)
    assert (done.returncode == 0) == (told is None)
    assert done.stdout == ''
    line = done.stderr.splitlines()[-1] if told else done.stderr
    assert (told or '') in line
    if told in (ALL, FEW):
        assert line.startswith('ModuleNotFoundError: vovnet needs')
        assert "pip install 'vovnet[openmmlab]'" in line


def import_with_stubs(folder, **stubs):
    """Import vovnet beside stubs of packages; return how that ends."""
    for name, code in stubs.items():
        (folder / f'{name}.py').write_text(code)
    return run_code('try: import vovnet\n'
                    'except ImportError as error: print(error)', folder)


def test_import_refuses_an_old_torch(tmp_path):
    assert import_with_stubs(
        tmp_path, torch='__version__ = "2.4.1+cu121"', torchvision='',
        cv2='') == (
            f'vovnet needs torch {OLDEST_TORCH} or later, this is '
            '2.4.1+cu121: pip install --upgrade torch torchvision\n')


@pytest.mark.parametrize('name, error, remedy', [
    ('cv2', 'ImportError("libGL.so.1: cannot open")',
     'pip uninstall -y opencv-python; pip install opencv-python-headless'),
    ('torchvision', 'RuntimeError("operator torchvision::nms does not exist")',
     'pip install --upgrade torch torchvision'),
])
def test_import_tells_what_does_not_load(name, error, remedy, tmp_path):
    stubs = dict(torch='', torchvision='') | {name: f'raise {error}'}
    told = import_with_stubs(tmp_path, **stubs)
    reason = error.partition('"')[2].rstrip('")')
    assert told.startswith(f'vovnet needs {name}, which does not load here '
                           f'({reason}): {remedy}')
    assert told.count('\n') == 1


TOOLS = sorted({*ROOT.glob('tools/**/*.py'), *ROOT.glob('demo/*.py')} - {
    ROOT / 'tools/misc' / name
    for name in ('setup_env.py', 'matrix.py', 'gpu_session.py')})


@pytest.mark.parametrize('tool, there', [
    *((tool, []) for tool in TOOLS),
    (ROOT / 'tools/test.py', ['onnxruntime']),
    (ROOT / 'demo/onnx_demo.py', ['onnxruntime'])],
    ids=lambda value: getattr(value, 'stem', str(value)))
def test_tools_tell_what_is_missing(tool, there, tmp_path):
    """Each command line, in one line, whatever it would import next."""
    for name in there:
        (tmp_path / f'{name}.py').touch()
    done = run_without_packages(tmp_path, tool)
    assert done.returncode == 1
    # The one that needs no torch.
    alone = tool.stem == 'onnx_demo' and there
    assert done.stderr.startswith('error: numpy: is not installed' if alone
                                  else f'error: {ALL}')
    assert done.stderr.count('\n') == 1


def test_detection_without_torch_needs_the_package_alone(tmp_path):
    """docs/deploy.md tells to copy it."""
    shutil.copytree(ROOT / 'projects/vovnet', tmp_path / 'projects/vovnet',
                    ignore=shutil.ignore_patterns('.mim', '__pycache__'))
    shutil.copytree(ROOT / 'demo', tmp_path / 'demo')
    out = run(sys.executable, '-c', 'import sys\n'
              "sys.modules.update(dict.fromkeys(('torch', 'mmengine')))\n"
              "from importlib import util; find = util.find_spec\n"
              "util.find_spec = lambda name: None if name in ('torch', "
              "'mmengine') else find(name)\n"
              "import runpy; sys.argv[1:] = ['--help']\n"
              f"runpy.run_path({str(tmp_path / 'demo/onnx_demo.py')!r}, "
              "run_name='__main__')", cwd=tmp_path)
    assert 'Detect without torch' in out


CLI = str(PROJECTS / 'vovnet_cli.py')


def test_tools_need_more_than_models(monkeypatch):
    """Models are built without mmdet, of which the tools want everything."""
    find_spec = requirements.find_spec
    monkeypatch.setattr(requirements, 'find_spec', lambda name: (
        None if name == 'mmdet' else find_spec(name)))
    assert requirements.find_missing(requirements.MODELS) == ''
    with pytest.raises(SystemExit, match='^error: vovnet needs mmdet, not '
                       'installed here: pip install'):
        runpy.run_path(CLI)


@pytest.mark.parametrize('asked, heard', [
    ([], ['a number is not finite']),
    (['default::FutureWarning'], [
        'old', 'old', 'old', 'old', 'pkg is deprecated as an API',
        'a number is not finite'])])
def test_tools_are_silent_about_the_future(asked, heard, monkeypatch):
    """Unless Python was asked for warnings."""
    monkeypatch.setattr(sys, 'warnoptions', asked)
    factory = logging.getLogRecordFactory()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        runpy.run_path(CLI)
        logging.setLogRecordFactory(factory)
        for text, kind in [('old', DeprecationWarning),
                           ('old', FutureWarning),
                           ('old', PendingDeprecationWarning),
                           ('old', SyntaxWarning),
                           ('pkg is deprecated as an API', UserWarning),
                           ('a number is not finite', UserWarning)]:
            warnings.warn(text, kind, stacklevel=1)
    assert [str(warning.message) for warning in caught] == heard
