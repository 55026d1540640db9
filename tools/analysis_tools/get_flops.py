"""Parameters, multiply-adds and memory accesses: ``get_flops.py CONFIG``.

Counts each part of a detector or a classifier, without a data set.
"""
import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from rich.console import Console
from rich.table import Table

from vovnet.analysis.complexity import (
    CONVENTION,
    Complexity,
    Cost,
    compute_config_complexity,
)
from vovnet.engine.build import PARTS
from vovnet.engine.cli import add_config_options
from vovnet.engine.config import load_config
from vovnet.utils.errors import report_user_errors
from vovnet.utils.table import check_files

COLUMNS = ('parameters\nM', 'multiply-\nadds, G', 'memory\naccess\ncost, M',
           'elements\nM', 'concat,\nMB')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Count parameters, multiply-adds and memory accesses')
    add_config_options(parser)
    parser.add_argument(
        '--shape', type=int, nargs='+', metavar='PX',
        help="height and width of the image (default: the test pipeline's)")
    parser.add_argument(
        '--part', choices=PARTS, default='detector',
        help='the whole model (default) or its backbone alone')
    parser.add_argument('--per-layer', action='store_true',
                        help='a row for each call of a layer')
    parser.add_argument('--json', metavar='FILE',
                        help='write all of it, layer by layer')
    return parser.parse_args()


def format_cost(cost: Cost) -> list[str]:
    scales = 1e6, 1e9, 1e6, 1e6, 1e6
    return [f'{value / scale:,.3f}' for value, scale in zip(cost, scales)]


def build_table(found: Complexity, per_layer: bool) -> Table:
    out = Table(title=f'One image, {"x".join(map(str, found.input))}')
    out.add_column('layer' if per_layer else 'part', overflow='fold')
    for column in ('kind', 'input', 'output') if per_layer else ():
        out.add_column(column)
    for column in COLUMNS:
        out.add_column(column, justify='right')
    if per_layer:
        for layer in found.layers:
            shapes = ('x'.join(map(str, s)) for s in layer[2:4])
            out.add_row(layer.name, layer.kind, *shapes,
                        *format_cost(layer.cost))
    else:
        for name, cost in found.parts.items():
            out.add_row(name or '(the model itself)', *format_cost(cost))
    out.add_section()
    blank = [''] * 3 * per_layer
    out.add_row('total', *blank, *format_cost(found.total), style='bold')
    return out


@report_user_errors()
def main() -> None:
    args = parse_args()
    if args.json:
        check_files([args.json], overwrite=True, option='--json')
    cfg = load_config(args.config, args.cfg_options)
    found = compute_config_complexity(cfg, args.shape, args.part)
    view, console = build_table(found, args.per_layer), Console()
    if args.per_layer or not console.is_terminal:  # rather long than cut
        console.width = max(80, Console(width=999).measure(view).maximum)
    console.print(view)
    for note in (CONVENTION, *found.notes):
        console.print(note, highlight=False)
    if found.uncounted:
        console.print('Not counted: ' + ', '.join(found.uncounted),
                      highlight=False, markup=False)
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(dict(config=args.config, part=args.part,
                           **found.to_dict()), file, indent=1)


if __name__ == '__main__':
    main()
