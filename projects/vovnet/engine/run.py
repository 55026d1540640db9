"""Train and test with a prepared config, after looking for mistakes."""
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..utils.errors import NO_ROOM, UserError, get_process_rank
from .checks import check_datasets
from .distributed import mark_success
from .hooks import ImagesCheckHook, LoadCheckHook
from .prepare import check_output_dir, is_classification


def train(cfg: Config) -> Runner:
    """Check the data, then train.

    Args:
        cfg: Prepared by :func:`~.prepare.prepare_run` and
            :func:`~.prepare.prepare_training`.

    Raises:
        UserError: If the data, a checkpoint or the disk will not do.
    """
    for part in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if not cfg.get(part):
            raise UserError(f'config {cfg.filename}: has no {part}, it is for '
                            'testing alone; train one that has it')
    splits = ('train', 'val') if cfg.get('val_dataloader') else ('train', )
    runner = _build_runner(cfg, splits, 'resume' if cfg.resume else 'start')
    with _name_full_disk(cfg.work_dir):
        runner.train()
    mark_success()
    return runner


def test(cfg: Config, out: str | None = None,
         optimize: str | None = None) -> dict:
    """Check the data, then evaluate a checkpoint on the test split.

    Args:
        cfg: Prepared by :func:`~.prepare.prepare_run` and
            :func:`~.prepare.prepare_test`.
        out: A ``.pkl`` file for the predictions.
        optimize: As for :func:`~.prepare.prepare_test`.

    Returns:
        The metrics.

    Raises:
        UserError: If the data or the checkpoint will not do.
    """
    if out is not None:
        if not out.endswith(('.pkl', '.pickle')):
            raise UserError(f'--out {out}: name a .pkl file')
        check_output_dir(os.path.dirname(out) or '.', '--out')
    runner = _build_runner(cfg, ('test', ), 'test')
    if optimize:
        # Imported where it is used: it loads the compiler, in seconds.
        from ..deploy.optimize.apply import OptimizeHook
        runner.register_hook(OptimizeHook(optimize))
    if out is not None:
        if is_classification(cfg):
            dump = DumpResults(out)
        else:
            from mmdet.evaluation import DumpDetResults
            dump = DumpDetResults(out)
        runner.test_evaluator.metrics.append(dump)
    with _name_full_disk(cfg.work_dir):
        metrics = runner.test()
    mark_success()
    return metrics


def _build_runner(cfg: Config, splits: tuple, purpose: str) -> Runner:
    load_from = cfg.get('load_from')
    if load_from and '://' not in load_from and not os.path.isfile(
            os.path.expanduser(load_from)):
        raise UserError(f'checkpoint {load_from}: no such file; check the '
                        'path')
    # One process is enough; the others wait for it where they first meet.
    warnings = check_datasets(cfg, splits) if get_process_rank() == 0 else []
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    try:
        with _name_full_disk(cfg.work_dir):
            runner = build(cfg)
    except ValueError as error:  # raised by constructors for wrong values
        raise UserError(f'config {cfg.filename}: {error}') from error
    for line in warnings:
        runner.logger.warning(line)
    runner.register_hook(ImagesCheckHook(cfg.get('check_images', True)))
    if load_from:
        runner.register_hook(LoadCheckHook(load_from, purpose))
    return runner


@contextmanager
def _name_full_disk(work_dir: str) -> Iterator[None]:
    """Name the work dir if the disk fills up where no file is named."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, work_dir) from error
        raise
