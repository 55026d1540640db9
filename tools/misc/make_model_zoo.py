"""Write the tables of docs/model_zoo.md from the metafiles.

``tools/misc/make_model_zoo.py [--check]`` (:mod:`vovnet.checkpoints`).
"""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.checkpoints import update_page
from vovnet.utils.errors import UserError, report_user_errors

ROOT = os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', '..')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the model zoo from the metafiles')
    parser.add_argument('--page', help='default: docs/model_zoo.md',
                        default=os.path.join(ROOT, 'docs', 'model_zoo.md'))
    parser.add_argument('--index', help='default: model-index.yml',
                        default=os.path.join(ROOT, 'model-index.yml'))
    parser.add_argument('--check', action='store_true',
                        help='only tell whether the page is up to date')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    page = os.path.relpath(args.page)
    with open(page, encoding='utf-8') as file:
        old = file.read()
    new = update_page(old, args.index)
    if args.check and new != old:
        raise UserError(f'{page}: does not say what the metafiles say; run '
                        'python tools/misc/make_model_zoo.py')
    if new != old:
        with open(page, 'w', encoding='utf-8') as file:
            file.write(new)
    print(f'{page}: {"up to date" if new == old else "written"}')


if __name__ == '__main__':
    main()
