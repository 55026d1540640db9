"""Generate a classification data set: a folder of pictures for each class."""
import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from tqdm import tqdm

from vovnet.datasets import SHAPE_CLASSES, TEN_CLASSES, make_shape_folders
from vovnet.datasets.generated_set import exit_when_stopped
from vovnet.utils.errors import report_user_errors

EXAMPLES = """examples:
  # the set of configs/demo/classifier_vovnet-27-slim_shapes.py
  python tools/dataset_converters/make_shape_folders.py data/shape_folders
  # ten classes, one or two of each shape, as large as CIFAR-10's pictures
  python tools/dataset_converters/make_shape_folders.py data/shapes_ten \\
      --size 32 --classes ten
  # two classes of your choice
  python tools/dataset_converters/make_shape_folders.py data/two \\
      --classes star circle+star
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Generate pictures of colored shapes on textured '
        'backgrounds, in a folder for each class, for training and '
        'validation. The same options give the same files.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', help='folder to make')
    parser.add_argument('--num-train', type=int, default=400, metavar='N',
                        help='training pictures of each class '
                        '(default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=100, metavar='N',
                        help='validation pictures of each class '
                        '(default: %(default)s)')
    parser.add_argument('--size', type=int, default=64, metavar='PX',
                        help='side of the pictures (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='K',
                        help='seed of the set (default: %(default)s)')
    parser.add_argument('--classes', nargs='+', default=SHAPE_CLASSES,
                        metavar='NAME', help='"ten" for one or two of each '
                        f'shape, or any of: {", ".join(SHAPE_CLASSES)}, also '
                        'joined by +, as circle+star (default: these)')
    parser.add_argument('--force', action='store_true',
                        help='replace a set that this tool made earlier')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    if args.classes == ['ten']:
        args.classes = TEN_CLASSES
    # A log file gets a line every now and then, a terminal a moving bar.
    progress = partial(tqdm, unit=' pictures', file=sys.stdout,
                       mininterval=0.1 if sys.stdout.isatty() else 5)
    with exit_when_stopped('make_shape_folders'):
        made = make_shape_folders(**vars(args), progress=progress)
    print(f'{args.root}: {len(args.classes)} classes with {args.num_train} '
          f'training and {args.num_val} validation pictures each',
          'written' if made else 'already there')


if __name__ == '__main__':
    main()
