"""A page of what ``make gpu`` found: ``gpu_page.py RESULTS``."""
import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.paper.gpu_page import DRY, make_page
from vovnet.utils.errors import UserError, report_user_errors

DOCS = Path(os.path.realpath(__file__)).parents[2] / 'docs/gpu.md'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Turn results of `make gpu` into a page')
    parser.add_argument('results', help='their folder; without one the page '
                        'says that nothing was measured')
    parser.add_argument('--out', type=Path, default=DOCS,
                        help='Markdown; pictures go to images/ beside it')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    text, pictures = make_page(args.results)
    if DRY in text and args.out == DOCS:
        raise UserError(f'{args.results}: of a dry run on a CPU, which is not '
                        'for docs/gpu.md; name another page with --out')
    images = args.out.parent / 'images'
    images.mkdir(parents=True, exist_ok=True)
    for file, name in pictures:
        shutil.copyfile(file, images / name)
    args.out.write_text(text)
    print(f'{args.out}: {len(text.splitlines())} lines, '
          f'{len(pictures)} pictures')


if __name__ == '__main__':
    main()
