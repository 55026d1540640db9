"""Write the tables of docs/model_zoo.md from the metafiles."""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.checkpoints import update_page
from vovnet.utils.errors import UserError, report_user_errors

ROOT = Path(__file__).resolve().parents[2]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the model zoo from the metafiles')
    parser.add_argument('--page', help='default: docs/model_zoo.md',
                        default=ROOT / 'docs/model_zoo.md')
    parser.add_argument('--index', help='default: model-index.yml',
                        default=ROOT / 'model-index.yml')
    parser.add_argument('--check', action='store_true',
                        help='only tell whether the page is up to date')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    page = os.path.relpath(args.page)
    old = Path(page).read_text(encoding='utf-8')
    new = update_page(old, args.index)
    if args.check and new != old:
        raise UserError(f'{page}: differs from the metafiles; run python '
                        'tools/misc/make_model_zoo.py')
    if new != old:
        Path(page).write_text(new, encoding='utf-8')
    print(f'{page}: {"up to date" if new == old else "written"}')


if __name__ == '__main__':
    main()
