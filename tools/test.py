"""Evaluate a model: ``tools/test.py CONFIG CHECKPOINT [options]``.

The options are those of mmdet 3.3.0's ``tools/test.py``.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))
import vovnet_cli

from vovnet.engine import run
from vovnet.engine.cli import (
    add_config_options,
    add_optimize_option,
    add_run_options,
)
from vovnet.engine.config import load_config
from vovnet.engine.prepare import prepare_run, prepare_test
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a detector or a classifier')
    add_config_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    add_run_options(parser)
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='save the predictions, for offline '
        "evaluation with mmdet's analysis tools")
    parser.add_argument(
        '--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', help='save pictures of truth beside predictions to '
        'this folder, below <work dir>/<time>/ (of a classifier: <work dir>/)'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2,
        help='seconds for which a picture is shown')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation')
    add_optimize_option(parser)
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    prepare_run(cfg, args.work_dir, args.launcher, args.local_rank)
    prepare_test(
        cfg, args.checkpoint, show=args.show, show_dir=args.show_dir,
        wait_time=args.wait_time, tta=args.tta, optimize=args.optimize)
    run.test(cfg, args.out, args.optimize)


if __name__ == '__main__':
    main()
