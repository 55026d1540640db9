"""The paper's Figure 2: ``aggregation_weights.py CONFIG CHECKPOINT``.

Draws the weights of the layers of each OSA or dense block for their sources.
"""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.analysis.aggregation_weights import (
    compute_aggregation_weights,
    draw_blocks,
    write_csv,
)
from vovnet.engine.build import PARTS, load_network
from vovnet.engine.cli import add_config_options
from vovnet.engine.config import load_config
from vovnet.engine.prepare import check_output_dir
from vovnet.utils.errors import UserError, report_user_errors

SUFFIXES = ('.png', '.pdf', '.svg')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw the weights by which layers take their sources')
    add_config_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument(
        '--out', default='aggregation_weights.png', metavar='FILE',
        help='the picture: .png, .pdf or .svg (default: '
        'aggregation_weights.png)')
    parser.add_argument('--csv', metavar='FILE', help='write the numbers')
    parser.add_argument(
        '--part', choices=PARTS, default='detector',
        help='what has to match the checkpoint: the whole model (default) or '
        'its backbone alone')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    if not args.out.endswith(SUFFIXES):
        raise UserError(f'--out {args.out}: name a file that ends with '
                        f'{", ".join(SUFFIXES)}')
    for option, file in ('--out', args.out), ('--csv', args.csv):
        if file:
            check_output_dir(os.path.dirname(file) or '.', option)
    cfg = load_config(args.config, args.cfg_options)
    blocks = compute_aggregation_weights(
        load_network(cfg, args.checkpoint, args.part))
    title = ', '.join(map(os.path.basename, (args.config, args.checkpoint)))
    draw_blocks(blocks, title).savefig(args.out, dpi=120)
    print(f'{args.out}: {len(blocks)} blocks')
    if args.csv:
        write_csv(blocks, args.csv)
        print(f'{args.csv}: the numbers')


if __name__ == '__main__':
    main()
