"""Turn the options of tools/train.py and tools/test.py into settings.

The options do what they do in mmdet 3.3.0 and mmpretrain 1.2.0.
"""
import os
import tempfile
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict

from ..deploy.optimize.modes import check_mode
from ..utils.errors import UserError
from ..utils.malloc import keep_freed_memory
from .distributed import set_up_processes


def is_classification(cfg: Config) -> bool:
    """Return whether a config is mmpretrain's rather than mmdet's."""
    return cfg.get('default_scope') == 'mmpretrain'


def check_output_dir(path: str | Path, option: str = '--work-dir') -> None:
    """Create a folder and check that files can be written there.

    Args:
        path: The folder.
        option: The command-line option that sets it, for the message.

    Raises:
        UserError: If the folder cannot be created or written to.
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


def check_optimize_mode(mode: str | None, device: str | torch.device) -> None:
    """Refuse a mode of ``--optimize`` that cannot run on a device.

    Raises:
        UserError: If the machine lacks what the mode needs.
    """
    if mode not in (None, 'auto'):
        check_mode(mode, torch.device(device))


def prepare_run(cfg: Config, work_dir: str | None = None,
                launcher: str = 'none', local_rank: int = 0) -> None:
    """Set the work dir, the launcher and defaults for data loaders.

    Args:
        cfg: Changed in place.
        work_dir: By default the config's, or ``work_dirs/<config name>``.
        launcher: What started the processes of this job.
        local_rank: Used where the launcher sets no ``LOCAL_RANK``.

    Raises:
        UserError: If the work dir cannot be written to, or the launcher
            needs GPUs that this machine lacks.
    """
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join(
        '.', 'work_dirs', Path(cfg.filename).stem)
    check_output_dir(cfg.work_dir)
    if is_classification(cfg):
        _set_classification_loaders(cfg)
    if not torch.cuda.is_available():
        keep_freed_memory()
    if launcher != 'none':
        set_up_processes(cfg)


def _set_classification_loaders(cfg: Config) -> None:
    """Let workers stack images, as mmpretrain's tools do."""
    for split in ('train', 'val', 'test'):
        if loader := cfg.get(f'{split}_dataloader'):
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())


def prepare_training(cfg: Config, amp: bool = False,
                     auto_scale_lr: bool = False,
                     resume: str | None = None) -> None:
    """Apply the options of ``tools/train.py``.

    Args:
        cfg: Changed in place.
        amp: Mixed precision with dynamic loss scaling.
        auto_scale_lr: Scale the learning rate to the batch size.
        resume: A checkpoint, or ``'auto'`` for the latest one in the work
            dir; while there is none, ``load_from`` stays as it is.

    Raises:
        UserError: If an option does not suit the config or the machine.
    """
    if amp:
        if not torch.cuda.is_available():
            raise UserError('--amp: needs a GPU, and finds none; leave it out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError('--auto-scale-lr: the config does not say which '
                            'batch size its learning rate is for; set '
                            'auto_scale_lr.base_batch_size')
        cfg.auto_scale_lr.enable = True
    if resume == 'auto':
        resume = find_latest_checkpoint(cfg.work_dir)
    if resume:
        cfg.resume = True
        cfg.load_from = resume


def find_latest_checkpoint(work_dir: str) -> str | None:
    """Find the checkpoint that ``last_checkpoint`` of a work dir names.

    Args:
        work_dir: The folder, which may have been moved since.

    Returns:
        An existing file, or None if no checkpoint was saved here.

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
    raise UserError(f'{pointer}: names {name or "nothing"}, which does not '
                    f'exist; give --resume a checkpoint{newest}')


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
        wait_time: Seconds for which a picture is shown.
        tta: Test-time augmentation: the config's (``tta_model``,
            ``tta_pipeline``), or a horizontal flip.
        optimize: A mode of :mod:`vovnet.deploy.optimize.modes`, or 'auto'.

    Raises:
        UserError: If the config cannot draw pictures, or the model cannot be
            optimized in this way.
    """
    check_optimize_mode(
        optimize, 'cuda' if torch.cuda.is_available() else 'cpu')
    if optimize and tta:
        raise UserError('--optimize, --tta: leave one out')
    cfg.load_from, cfg.resume = checkpoint, False
    if show or show_dir:
        _set_visualization(cfg, show, show_dir, wait_time, tta)
    if tta:
        _add_tta(cfg)


def _set_visualization(cfg: Config, show: bool, show_dir: str | None,
                       wait_time: float, tta: bool) -> None:
    if is_classification(cfg):
        if tta:
            raise UserError('--show, --show-dir: mmpretrain cannot draw '
                            'images with --tta; leave one out')
        hook = 'VisualizationHook'
        options = dict(
            enable=True, interval=1,
            out_dir=show_dir and os.path.join(cfg.work_dir, show_dir))
    else:
        hook = 'DetVisualizationHook'
        options = dict(draw=True, test_out_dir=show_dir)
    if 'visualization' not in cfg.get('default_hooks', {}):
        raise UserError('--show, --show-dir: the config has no visualization '
                        'hook; set default_hooks.visualization='
                        f"dict(type='{hook}')")
    cfg.default_hooks.visualization.update(
        show=show, wait_time=wait_time, **options)


def _add_tta(cfg: Config) -> None:
    """Wrap model and pipeline as mmdet and mmpretrain do for ``--tta``."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if is_classification(cfg):
        model, pack = dict(type='AverageClsScoreTTA'), dataset.pipeline[-1]
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
    dataset.pipeline = cfg.get('tta_pipeline') or [
        *dataset.pipeline[:-1],
        dict(type='TestTimeAug', transforms=[flips, [pack]])]
    cfg.model = ConfigDict(**model, module=cfg.model)
