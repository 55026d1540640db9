"""Command-line options that the tools have in common."""
import argparse
from typing import Any

from mmengine.config import DictAction

from ..deploy.optimize.modes import MODES


class _KeyValueAction(DictAction):
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
    """Add ``config`` (``configs`` if several) and ``--cfg-options``."""
    if several:
        parser.add_argument(
            'configs', nargs='*', metavar='CONFIG', help='config files; also '
            "of mmdet and mmpretrain: mmdet::retinanet/retinanet_r50_fpn_1x_"
            'coco.py')
    else:
        parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options', nargs='+', action=_KeyValueAction,
        metavar='KEY=VALUE', help='override settings of the config, such as '
        'train_cfg.max_epochs=6; lists as key="[a,b]" or key=a,b')


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir``, ``--launcher`` and ``--local-rank``."""
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (default: '
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
        f'{", ".join(modes)}, or auto to find the fastest of them, which '
        'takes minutes (default without a name: fold, which needs no '
        'compiler and keeps single precision)')
