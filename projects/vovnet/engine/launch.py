"""From a command line to a runner: what the tools have in common.

Detectors of mmdet and, by their ``default_scope``, classifiers of mmpretrain.
The options and what they do are those of mmdet 3.3.0 (``tools/train.py``,
``tools/test.py``; those of mmpretrain 1.2.0 for its own parts; read and not
copied). What differs:

- mistakes are looked for before anything is built or written, and end with
  one line (:mod:`vovnet.utils.errors`);
- checkpoints are read as data (:mod:`vovnet.checkpoints`) and have to fit,
  also in how they want the images normalised;
- a config may also be given relative to the repository's root;
- ``--resume`` without a file keeps ``load_from`` if there is nothing to
  resume yet, and ``--launcher pytorch`` works without a GPU, over gloo.
"""
import argparse
import atexit
import logging
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..deploy.optimize.modes import MODES, check_mode
from ..utils.errors import NO_ROOM, UserError, get_process_rank
from .checks.detection_data import check_datasets
from .hooks.channels_last_hook import keep_memory
from .hooks.load_check_hook import LoadCheckHook
from .hooks.normalization_check_hook import ImagesCheckHook

# Of the checkout, where there is one, and of what is installed for mim.
_ROOTS = Path(__file__).parents[3], Path(__file__).parents[1] / '.mim'


class _Options(DictAction):
    """``KEY=VALUE`` pairs, with a usage error for anything else."""

    def __call__(self, parser: argparse.ArgumentParser,
                 namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string}: expected KEY=VALUE, got '
                             f'{value!r}')
        super().__call__(parser, namespace, values, option_string)


def add_config_options(parser: argparse.ArgumentParser,
                       several: bool = False) -> None:
    """Add ``config``, or ``configs`` if any number will do, and
    ``--cfg-options``."""
    if several:
        parser.add_argument(
            'configs', nargs='*', metavar='CONFIG', help='config files; also '
            "of mmdet and mmpretrain: mmdet::retinanet/retinanet_r50_fpn_1x_"
            'coco.py')
    else:
        parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options', nargs='+', action=_Options, metavar='KEY=VALUE',
        help='override settings of the config, as train_cfg.max_epochs=6; '
        'lists as key="[a,b]" or key=a,b')


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--launcher`` and ``--local-rank``."""
    parser.add_argument(
        '--work-dir', help='folder of logs and checkpoints (default: '
        'work_dir of the config, or ./work_dirs/<name of the config>)')
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none', help='what started the processes of this job')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def add_optimize_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--optimize [MODE]``."""
    modes = [name for name, mode in MODES.items() if not mode.runtime]
    parser.add_argument(
        '--optimize', nargs='?', const='fold', metavar='MODE',
        choices=['auto', *modes], help='run a faster copy of the model: '
        f'{", ".join(modes)}, or auto for the fastest of them, which takes '
        'minutes to find out (default without a name: fold, single precision '
        'and no compiler)')


def check_optimize(mode: str | None, device: str | torch.device) -> None:
    """Refuse a mode before anything is loaded.

    Args:
        mode: What ``--optimize`` gave.
        device: Where the model will run.

    Raises:
        UserError: If the machine does not have what the mode needs.
    """
    if mode not in (None, 'auto'):
        check_mode(mode, torch.device(device))


def load_config(path: str, options: dict | None = None) -> Config:
    """Read a config file.

    Args:
        path: Relative to the current directory or, where there is no such
            file, to the root of the repository (``configs/...``).
        options: What ``--cfg-options`` gave.

    Returns:
        Config: With the options merged.

    Raises:
        UserError: If there is no such file, or it or the options are wrong.
    """
    file = next((f for f in (Path(path), *(root / path for root in _ROOTS))
                 if f.is_file()), None)
    if file is None:
        raise UserError(f'config {path}: no such file; check the path')
    try:
        cfg = Config.fromfile(str(file))
    except Exception as error:  # a config is code, and may fail in any way
        line = max((f'{frame.filename}, line {frame.lineno}: '
                    for frame in traceback.extract_tb(error.__traceback__)
                    if frame.filename == str(file.resolve())), default='')
        raise UserError(f'config {file}: {line}{type(error).__name__}: '
                        f'{error}') from error
    try:
        cfg.merge_from_dict(options or {})
    except Exception as error:
        raise UserError(
            f'--cfg-options: do not fit config {file}: {error}') from error
    return cfg


def save_config(cfg: Config, path: str) -> None:
    """Write a config with everything it inherits.

    Args:
        cfg: The config.
        path: Ends in ``.py``, ``.json`` or ``.yml``; folders are made.

    Raises:
        UserError: If it ends otherwise.
    """
    if not path.endswith(('.py', '.json', '.yml', '.yaml')):
        raise UserError(f'{path}: end the name in .py, .json or .yml')
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    cfg.dump(path)


def prepare(cfg: Config, args: argparse.Namespace) -> None:
    """Settle where a run writes and how its processes meet.

    Args:
        cfg: Changed in place: ``work_dir``, ``launcher`` and, for several
            processes without a GPU, the model's wrapper.
        args: ``config`` and the options of :func:`add_run_options`.

    Raises:
        UserError: If nothing can be written to ``work_dir``, or the launcher
            needs GPUs that are not there.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join(
        '.', 'work_dirs', Path(args.config).stem)
    check_work_dir(cfg.work_dir)
    if _classifies(cfg):
        _set_loaders(cfg)
    if cfg.launcher != 'none':
        atexit.register(_leave_group)
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        if cfg.launcher != 'none' and int(os.environ['LOCAL_RANK']) >= count:
            raise UserError(f'--launcher {cfg.launcher}: more processes than '
                            f'GPUs here, {count}; start one for each')
        return
    keep_memory()
    if cfg.launcher == 'none':
        return
    if cfg.launcher != 'pytorch':
        raise UserError(f'--launcher {cfg.launcher}: finds no GPU; on CPUs '
                        'use --launcher pytorch')
    # MMEngine would ask for a CUDA device, here and in the model's wrapper.
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))


def _set_loaders(cfg: Config) -> None:
    """Make batches as mmpretrain's tools do: images stacked by workers."""
    for split in ('train', 'val', 'test'):
        if loader := cfg.get(f'{split}_dataloader'):
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())


_succeeded = False  # what this process was started for


def _leave_group() -> None:
    """End a process of a distributed run, before Python does.

    After its last step torch 2.11 sometimes aborts such a process, in the
    destructors behind Python's end ("terminate called without an active
    exception"; with gloo, 1 of 12 runs), and the run that
    succeeded counts as failed. So a process that is done leaves before them.

    One that failed leaves its group as it is: NCCL would wait for collectives
    that the others have begun, and these wait until it is gone.
    """
    if _succeeded and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for worker in multiprocessing.active_children():
        worker.terminate()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if _succeeded else 1)


def check_work_dir(path: str, option: str = '--work-dir') -> None:
    """Make a folder, and see that files can be written there.

    Args:
        path: The folder.
        option: How the command line names it.

    Raises:
        UserError: If it cannot be made or written to.
    """
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b'room for the log?')
            file.flush()
    except OSError as error:
        raise UserError(
            f'folder {path}: cannot be written to ({error.strerror}); choose '
            f'another with {option}') from error


def prepare_training(cfg: Config, amp: bool = False,
                     auto_scale_lr: bool = False,
                     resume: str | None = None) -> None:
    """Apply the options of ``tools/train.py``.

    Args:
        cfg: Changed in place.
        amp: Mixed precision with dynamic loss scaling.
        auto_scale_lr: Scale the learning rate to the batch size.
        resume: A checkpoint, ``'auto'`` for the latest one in ``work_dir``
            (none yet: start afresh), or None.

    Raises:
        UserError: If an option does not fit the config or the machine.
    """
    if amp:
        if not torch.cuda.is_available():
            raise UserError('--amp: needs a GPU, and finds none; leave it out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError('--auto-scale-lr: the config does not say for '
                            'which batch size its learning rate is; set '
                            'auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if resume == 'auto':
        resume = find_latest(cfg.work_dir)
    if resume:
        cfg.resume = True
        cfg.load_from = resume


def find_latest(work_dir: str) -> str | None:
    """The checkpoint that ``last_checkpoint`` of a folder names.

    Args:
        work_dir: The folder; it may have been moved since.

    Returns:
        str | None: A file that exists; None if no training was saved here.

    Raises:
        UserError: If the named file is gone.
    """
    pointer = Path(work_dir, 'last_checkpoint')
    if not pointer.exists():
        return None
    name = pointer.read_text().strip()
    if name:
        for file in (Path(name), pointer.with_name(Path(name).name)):
            if file.is_file():
                return str(file)
    others = sorted(pointer.parent.glob('*.pth'), key=os.path.getmtime)
    newest = f', for instance {others[-1]}' if others else ''
    raise UserError(f'{pointer}: names {name or "nothing"}, which is not '
                    f'there; give --resume a checkpoint{newest}')


def prepare_test(cfg: Config, checkpoint: str, *, show: bool = False,
                 show_dir: str | None = None, wait_time: float = 2,
                 tta: bool = False, optimize: str | None = None) -> None:
    """Apply the options of ``tools/test.py``.

    Args:
        cfg: Changed in place.
        checkpoint: The weights to test, a file or a URL.
        show: Show each picture in a window.
        show_dir: Save the pictures to this folder below
            ``work_dir/<time>/``.
        wait_time: Seconds that a shown picture stays.
        tta: Test-time augmentation: that of the config (``tta_model``,
            ``tta_pipeline``), or a horizontal flip.
        optimize: A mode of :mod:`vovnet.deploy.optimize.modes`, or 'auto'.

    Raises:
        UserError: If the pictures are asked of a config that draws none, or
            the model cannot be optimised so.
    """
    check_optimize(optimize, 'cuda' if torch.cuda.is_available() else 'cpu')
    if optimize and tta:
        raise UserError('--optimize, --tta: leave one out')
    cfg.load_from, cfg.resume = checkpoint, False
    if show or show_dir:
        classifies = _classifies(cfg)
        if classifies and tta:
            raise UserError('--show, --show-dir: mmpretrain draws no images '
                            'that --tta has multiplied; leave one out')
        hook = 'VisualizationHook' if classifies else 'DetVisualizationHook'
        if 'visualization' not in cfg.get('default_hooks', {}):
            raise UserError('--show, --show-dir: the config has no hook that '
                            'draws; set default_hooks.visualization='
                            f"dict(type='{hook}')")
        cfg.default_hooks.visualization.update(
            show=show, wait_time=wait_time, **(
                dict(enable=True, interval=1, out_dir=show_dir and
                     os.path.join(cfg.work_dir, show_dir)) if classifies else
                dict(draw=True, test_out_dir=show_dir)))
    if tta:
        _add_tta(cfg)


def _classifies(cfg: Config) -> bool:
    """Whether a config is of mmpretrain, not of mmdet."""
    return cfg.get('default_scope') == 'mmpretrain'


def _add_tta(cfg: Config) -> None:
    """Wrap model and pipeline as mmdet and mmpretrain do for ``--tta``."""
    data = cfg.test_dataloader.dataset
    leaf = data
    while 'dataset' in leaf:
        leaf = leaf.dataset
    if _classifies(cfg):
        model, pack = dict(type='AverageClsScoreTTA'), leaf.pipeline[-1]
    else:
        model = dict(
            type='DetTTAModel',
            tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5),
                         max_per_img=100))
        pack = dict(type='PackDetInputs', meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
            'flip', 'flip_direction'))
    model = cfg.get('tta_model') or model
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1., 0.)]
    leaf.pipeline = cfg.get('tta_pipeline') or [
        *leaf.pipeline[:-1],
        dict(type='TestTimeAug', transforms=[flips, [pack]])]
    cfg.model = ConfigDict(**model, module=cfg.model)


def train(cfg: Config) -> Runner:
    """Check the data, then train.

    Args:
        cfg: As :func:`prepare` and :func:`prepare_training` leave it.

    Returns:
        Runner: After the training.

    Raises:
        UserError: If the data, a checkpoint or the disk is not as it should.
    """
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if not cfg.get(part):
            raise UserError(f'config {cfg.filename}: has no {part}, it is for '
                            'testing alone; train one that has it')
    splits = ('train', 'val') if cfg.get('val_dataloader') else ('train', )
    runner = _build_runner(cfg, splits, 'resume' if cfg.resume else 'start')
    _run(runner.train, cfg.work_dir)
    return runner


def test(cfg: Config, out: str | None = None,
         optimize: str | None = None) -> dict:
    """Check the data, then evaluate a checkpoint on the test split.

    Args:
        cfg: As :func:`prepare` and :func:`prepare_test` leave it.
        out: A ``.pkl`` file for the predictions.
        optimize: See :func:`prepare_test`.

    Returns:
        dict: The metrics.

    Raises:
        UserError: If the data or the checkpoint is not as it should be.
    """
    if out is not None:
        if not out.endswith(('.pkl', '.pickle')):
            raise UserError(f'--out {out}: name a .pkl file')
        check_work_dir(os.path.dirname(out) or '.', '--out')
    runner = _build_runner(cfg, ('test', ), 'test')
    if optimize:
        # It needs this package to be whole.
        from ..deploy.optimize.apply import OptimizeHook
        runner.register_hook(OptimizeHook(optimize))
    if out is not None:
        if _classifies(cfg):
            dump = DumpResults(out)
        else:
            from mmdet.evaluation import DumpDetResults
            dump = DumpDetResults(out)
        runner.test_evaluator.metrics.append(dump)
    return _run(runner.test, cfg.work_dir)


def _build_runner(cfg: Config, splits: tuple, purpose: str) -> Runner:
    """Look for mistakes in the data, then build."""
    load_from = cfg.get('load_from')
    if load_from and '://' not in load_from and not os.path.isfile(
            os.path.expanduser(load_from)):
        raise UserError(f'checkpoint {load_from}: no such file; check the '
                        'path')
    # One process is enough; the others wait for it where they first meet.
    oddities = check_datasets(cfg, splits) if get_process_rank() == 0 else []
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    try:
        runner = _run(partial(build, cfg), cfg.work_dir)
    except ValueError as error:  # what constructors say to a wrong value
        raise UserError(f'config {cfg.filename}: {error}') from error
    for line in oddities:
        runner.logger.warning(line)
    runner.register_hook(ImagesCheckHook(cfg.get('check_images', True)))
    if load_from:
        runner.register_hook(LoadCheckHook(load_from, purpose))
    return runner


def _run(step: Callable[[], Any], work_dir: str) -> Any:
    """Run, and name the work dir if the disk fills where no file is named."""
    global _succeeded
    try:
        result = step()
        _succeeded = True
        return result
    except OSError as error:
        if error.filename is None and error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, work_dir) from error
        raise
