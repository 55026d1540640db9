"""A page of what ``make gpu`` found: ``gpu_page.py RESULTS``."""
import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, os.path.join(
    os.path.dirname(os.path.realpath(__file__)), '..', '..', 'projects'))
import vovnet  # noqa: F401  # before mmdet, for mmcv's operators
from vovnet.analysis.gpu_page import make_page
from vovnet.errors import one_line

ROOT = Path(os.path.realpath(__file__)).parents[2]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Turn results of `make gpu` into a page')
    parser.add_argument('results', help='their folder; without one the page '
                        'says that nothing was measured')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/gpu.md',
                        help='Markdown; pictures go to images/ beside it')
    return parser.parse_args()


@one_line()
def main() -> None:
    args = parse_args()
    text, pictures = make_page(args.results)
    images = args.out.parent / 'images'
    images.mkdir(parents=True, exist_ok=True)
    for file, name in pictures:
        shutil.copyfile(file, images / name)
    args.out.write_text(text)
    print(f'{args.out}: {len(text.splitlines())} lines, '
          f'{len(pictures)} pictures')


if __name__ == '__main__':
    main()
