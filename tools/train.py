"""Train a detector or a classifier: ``tools/train.py CONFIG [options]``.

The options are those of mmdet 3.3.0's ``tools/train.py``. ``--resume`` without
a file keeps ``load_from`` while there is nothing to resume, and ``--launcher
pytorch`` works without a GPU.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))
import vovnet_cli

from vovnet.engine import run
from vovnet.engine.cli import add_config_options, add_run_options
from vovnet.engine.config import load_config
from vovnet.engine.prepare import prepare_run, prepare_training
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a detector or a classifier')
    add_config_options(parser)
    add_run_options(parser)
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true',
        help='scale the learning rate to the total batch size')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CHECKPOINT',
        help='resume from this checkpoint, or from the latest in the work '
        'dir')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    prepare_run(cfg, args.work_dir, args.launcher, args.local_rank)
    prepare_training(cfg, args.amp, args.auto_scale_lr, args.resume)
    run.train(cfg)


if __name__ == '__main__':
    main()
