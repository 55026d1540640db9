"""Make a checkpoint to publish: meta and weights, without training state.

Eight digits of the file's SHA-256 go into its name.
"""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

import vovnet.utils.atomic_file  # noqa: F401  # registers whole files
from vovnet.checkpoints import publish
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Reduce a checkpoint to meta and weights')
    parser.add_argument('src', help='a checkpoint')
    parser.add_argument(
        'dst', help='the new file, such as a.pth for a-0123abcd.pth')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    path = publish(args.src, args.dst)
    print(f'{path}: {os.path.getsize(path) / 2**20:.1f} MiB, from '
          f'{os.path.getsize(args.src) / 2**20:.1f} MiB')


if __name__ == '__main__':
    main()
