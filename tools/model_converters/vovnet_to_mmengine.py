"""Convert a VoVNet's weights between libraries (:mod:`vovnet.checkpoints`)."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

import vovnet.utils.atomic_file  # noqa: F401  # registers whole files
from vovnet.checkpoints import TARGETS, convert
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Convert a VoVNet's weights between libraries")
    parser.add_argument(
        'src', help='a file in any naming scheme, a URL, or timm://NAME')
    parser.add_argument(
        'dst', help='the new file; .safetensors gives that format')
    parser.add_argument(
        '--to', choices=list(TARGETS), default='mmengine',
        help="whose names (default: mmengine, this project's)")
    parser.add_argument(
        '--images', choices=['fold', 'keep'],
        help='where the other library normalizes images otherwise than the '
        'weights expect: fold the difference into the stem, or keep the '
        'weights as they are')
    parser.add_argument(
        '--prefix', help='prefix of the names in SRC, if it holds several '
        'VoVNets')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    weights, written = convert(
        args.src, args.dst, args.to, args.prefix, args.images)
    left_out = weights.left_out
    names = ', '.join([*left_out[:3], *['...'] * (len(left_out) > 3)])
    print(f'{args.src}: {weights}')
    print(f'{args.dst}: {written} tensors in the names of {args.to}; '
          f'{len(left_out)} of the file left out'
          + (f' ({names})' if names else ''))


if __name__ == '__main__':
    main()
