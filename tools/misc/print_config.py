"""Print a config with all that it inherits, as training would use it.

The options are those of mmdet 3.3.0's tool of this name.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.engine.cli import add_config_options
from vovnet.engine.config import load_config, save_config
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Print a whole config')
    add_config_options(parser)
    parser.add_argument(
        '--save-path', help='also save it here, as .py, .json or .yml')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    print(f'Config:\n{cfg.pretty_text}')
    if args.save_path:
        save_config(cfg, args.save_path)
        print(f'Config saved to {args.save_path}')


if __name__ == '__main__':
    main()
