"""Generate the shapes data set, in COCO's or VOC's layout."""
import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from tqdm import tqdm

from vovnet.datasets import SHAPE_CLASSES, make_shapes
from vovnet.datasets.generated_set import exit_when_stopped
from vovnet.utils.errors import report_user_errors

EXAMPLES = """examples:
  # the set of the demo
  python tools/dataset_converters/make_shapes.py data/shapes \\
      --num-train 1400 --num-val 200
  # 1000 + 200 larger images of three shapes, a tenth of them empty
  python tools/dataset_converters/make_shapes.py data/large \\
      --num-train 1000 --num-val 200 --size 320 --empty-share 0.1 \\
      --classes circle square triangle
  # the same kind of data as PASCAL VOC lays it out
  python tools/dataset_converters/make_shapes.py data/voc --layout voc
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Generate a detection data set of colored shapes on '
        'textured backgrounds, with boxes and masks of their visible pixels. '
        'The same options give the same files.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', help='folder to make')
    parser.add_argument('--num-train', type=int, default=400, metavar='N',
                        help='training images (default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=100, metavar='N',
                        help='validation images (default: %(default)s)')
    parser.add_argument('--size', type=int, default=160, metavar='PX',
                        help='side of the images (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='K',
                        help='seed of the set (default: %(default)s)')
    parser.add_argument('--classes', nargs='+', default=SHAPE_CLASSES,
                        metavar='NAME', help='some of: '
                        f'{", ".join(SHAPE_CLASSES)} (default: all)')
    parser.add_argument('--max-objects', type=int, default=5, metavar='N',
                        help='an image holds 1 to N shapes '
                        '(default: %(default)s)')
    parser.add_argument('--empty-share', type=float, default=0.0,
                        metavar='P', help='share of images without shapes, '
                        '0 to 1 (default: %(default)s)')
    parser.add_argument('--layout', default='coco',
                        help='coco or voc (default: %(default)s)')
    parser.add_argument('--force', action='store_true',
                        help='replace a set that this tool made earlier')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    # A log file gets a line every now and then, a terminal a moving bar.
    progress = partial(tqdm, unit=' images', file=sys.stdout,
                       mininterval=0.1 if sys.stdout.isatty() else 5)
    with exit_when_stopped('make_shapes'):
        made = make_shapes(**vars(args), progress=progress)
    print(f'{args.root}: {args.num_train} training and {args.num_val} '
          'validation images', 'written' if made else 'already there')


if __name__ == '__main__':
    main()
