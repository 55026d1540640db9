"""Train a detector or a classifier: ``tools/train.py CONFIG [options]``.

The options are those of mmdet 3.3.0's ``tools/train.py``; what they do, and
where it differs, is in ``vovnet/engine/launch.py``.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))
import vovnet_cli

from vovnet.engine import launch
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a detector or a classifier')
    launch.add_config_options(parser)
    launch.add_run_options(parser)
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true',
        help='scale the learning rate to the total batch size')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CHECKPOINT',
        help='go on from this checkpoint, or from the latest in the work dir')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    cfg = launch.load_config(args.config, args.cfg_options)
    launch.prepare(cfg, args)
    launch.prepare_training(cfg, args.amp, args.auto_scale_lr, args.resume)
    launch.train(cfg)


if __name__ == '__main__':
    main()
