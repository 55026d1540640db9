"""Speed, energy, memory, computation: ``benchmark.py CONFIG [CONFIG ...]``.

Measures detectors or their backbones side by side, on noise or on images, with
random or trained weights, as they are or in the modes of :mod:`vovnet.deploy`.
"""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
os.environ.setdefault('TORCH_CPP_LOG_LEVEL', 'ERROR')  # the profiler's
import vovnet_cli

import torch
from rich.console import Console
from rich.progress import Progress

from vovnet.benchmark import report
from vovnet.benchmark.inference import (
    BenchmarkEntry,
    Plan,
    Report,
    benchmark_inference,
    count_steps,
    expand_modes,
)
from vovnet.benchmark.latency import ORDERS
from vovnet.benchmark.meters import METERS
from vovnet.benchmark.model import DTYPES, TEST_SET, InputConfig
from vovnet.deploy.optimize.modes import MODES
from vovnet.engine.build import PARTS
from vovnet.engine.cli import add_config_options
from vovnet.engine.config import create_timm_config, load_config
from vovnet.engine.prepare import check_output_dir
from vovnet.paper import tables as paper
from vovnet.utils.errors import UserError, report_user_errors
from vovnet.utils.table import FORMATS, check_files


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure what networks cost to run, side by side',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_config_options(parser, several=True)
    what = parser.add_argument_group('what is measured')
    what.add_argument('--paper', nargs='+', choices=paper.TABLES,
                      metavar='TABLE', help="the configs of the paper's "
                      f"tables ({', '.join(paper.TABLES)}), with its figures "
                      'beside those measured')
    what.add_argument('--timm', nargs='+', default=[], metavar='NAME',
                      help='networks of timm, in the first rows; with --part '
                      'backbone')
    what.add_argument('--part', choices=PARTS, default='detector',
                      help='the whole model, or its backbone alone')
    what.add_argument('--nms', choices=['in', 'out'], default='in',
                      help='with or without decoding and NMS')
    what.add_argument('--checkpoints', nargs='+', default=[], metavar='FILE',
                      help='weights of each config, or none; random without')
    what.add_argument('--names', nargs='+', default=[], metavar='NAME',
                      help='of each config, for the tables (default: of the '
                      'file)')
    what.add_argument('--accuracies', nargs='+', type=float, default=[],
                      metavar='AP', help='of each config, known from '
                      'elsewhere, for the table and --plot')
    what.add_argument('--shape', nargs='+', type=int, metavar='PX',
                      help='height and width of the noise (default: of the '
                      "config's test pipeline)")
    what.add_argument('--batch-size', type=int, default=1, metavar='N',
                      help='images of a run')
    what.add_argument('--data', nargs='?', const=TEST_SET, metavar='IMAGES',
                      help="real images in place of noise: a folder's, or "
                      "without a name those of the config's test set")
    what.add_argument('--num-images', type=int, default=16, metavar='N',
                      help='of --data, at most')
    where = parser.add_argument_group('where and how')
    where.add_argument('--device', help='cpu, cuda or cuda:N (default: a GPU '
                       'if there is one)')
    where.add_argument('--dtype', choices=DTYPES, default='fp32',
                       help='backbones are converted, whole models run under '
                       'autocast')
    where.add_argument('--channels-last', action='store_true',
                       help='channels are the fastest dimension in memory')
    where.add_argument('--optimize', nargs='+', metavar='MODE',
                       choices=['auto', *MODES], help='each network in each '
                       f'of these ways: {", ".join(MODES)}; auto tries all '
                       'that can be used here and names the fastest')
    where.add_argument('--threads', type=int, metavar='N',
                       help="of the CPU (default: torch's choice)")
    how = parser.add_argument_group('how long')
    plan = Plan()
    how.add_argument('--repeats', type=int, default=plan.repeats, metavar='N',
                     help='turns of each network')
    how.add_argument('--seconds', type=float, default=plan.seconds,
                     metavar='S', help='length of a turn')
    how.add_argument('--order', choices=ORDERS, default=plan.order,
                     help='of the turns')
    how.add_argument('--max-warm-up', type=float, default=plan.max_warm_up,
                     metavar='S', help='a warm-up ends when the times have '
                     'settled, or after so many seconds')
    how.add_argument('--max-spread', type=float, default=plan.max_spread,
                     metavar='SHARE', help='a larger spread of the times is '
                     'marked')
    how.add_argument('--meter', default=plan.meter,
                     choices=METERS, help='what measures energy')
    how.add_argument('--energy-repeats', type=int, metavar='N',
                     default=plan.energy_repeats,
                     help='windows of each network')
    how.add_argument('--energy-seconds', type=float, metavar='S',
                     default=plan.energy_seconds, help='length of a window')
    how.add_argument('--cool-down', type=float, default=plan.cool_down,
                     metavar='S', help='rest before each window')
    out = parser.add_argument_group('results')
    out.add_argument('--out', nargs='+', default=[], metavar='FILE',
                     help=f'written in the format of their names: '
                     f'{", ".join(FORMATS)}')
    out.add_argument('--overwrite', action='store_true',
                     help='files of --out that are there')
    out.add_argument('--resume', action='store_true', help='keep what the '
                     'JSON of --out has already, and measure the rest: '
                     'networks that failed or are missing, windows of energy')
    out.add_argument('--plot', metavar='DIR', help="draw the paper's Figures "
                     '3 and 4')
    return parser.parse_args()


def build_entries(args: argparse.Namespace) -> list[BenchmarkEntry]:
    """Load the configs of the networks, with what the options say of them."""
    if bool(args.configs) == bool(args.paper):
        raise UserError('CONFIG, --paper: give configs, or tables of the '
                        'paper')
    if args.paper:
        return [BenchmarkEntry(
            row.name, load_config(row.config, args.cfg_options),
            accuracy=row.accuracy, paper=row.figures)
            for row in paper.load_rows(args.paper)]
    count = len(args.configs)
    for option in ('checkpoints', 'names', 'accuracies'):
        given = getattr(args, option)
        if given and len(given) != count:
            raise UserError(f'--{option}: {len(given)} for {count} configs; '
                            'give as many')
    if args.timm and args.part != 'backbone':
        raise UserError('--timm: these networks have no head; use --part '
                        'backbone')
    entries = [BenchmarkEntry(f'timm {name}', create_timm_config(name))
               for name in args.timm]
    names = args.names or [Path(c.split('::')[-1]).stem for c in args.configs]
    for name, config, checkpoint, accuracy in zip(
            names, args.configs, args.checkpoints or ['none'] * count,
            args.accuracies or [None] * count):
        entries.append(BenchmarkEntry(
            name, load_config(config, args.cfg_options),
            None if checkpoint == 'none' else checkpoint, accuracy))
    return entries


def print_report(found: dict) -> None:
    """Print the table and what has to be read with it."""
    console = Console()
    if console.is_terminal:
        view = report.build_view(found, console.width)
    else:  # rather long than cut
        console.width = 10_000
        view = report.build_view(found, console.width)
        console.width = max(80, console.measure(view).maximum)
    console.print(view)
    conditions = '; '.join(
        f'{key}: {value}' for key, value in found['conditions'].items())
    for line in *report.list_remarks(found), f'Conditions: {conditions}':
        console.print(line, highlight=False, markup=False)
    for line in report.LEGEND:
        console.print(line, style='dim', highlight=False, markup=False)


@report_user_errors()
def main() -> None:
    args = parse_args()
    check_files(args.out, args.overwrite or args.resume)
    saved = report.load(args.out) if args.resume else None
    if args.plot:
        check_output_dir(args.plot, '--plot')
    if args.threads is not None:
        if args.threads < 1:
            raise UserError(f'--threads {args.threads}: give at least 1')
        torch.set_num_threads(args.threads)
    if not args.device:
        args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    inputs = InputConfig(
        args.part, args.nms == 'in', args.shape, args.batch_size, args.data,
        args.num_images, args.device, args.dtype, args.channels_last)
    plan = Plan(args.repeats, args.seconds, args.order, args.max_warm_up,
                args.max_spread, args.meter, args.energy_repeats,
                args.energy_seconds, args.cool_down)
    entries, notes = build_entries(args), []
    if args.optimize:
        entries, notes = expand_modes(entries, inputs, args.optimize)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        total = count_steps(plan, len(entries))
        task = bar.add_task('', total=total)

        def progress(text: str, more: int) -> None:
            nonlocal total
            total += more
            bar.update(task, description=text, advance=1, total=total)

        def save(results: Report) -> None:
            if args.out:
                report.save(results.to_dict(), args.out)

        results = benchmark_inference(entries, inputs, plan, progress, save,
                                      saved, notes)
    save(results)
    found = results.to_dict()
    print_report(found)
    pictures = report.plot(found, args.plot) if args.plot else []
    for file in (*args.out, *pictures):
        print(f'Written: {file}')
    failed = [result['name'] for result in found['results']
              if result['failure']]
    if failed:
        raise UserError(f'{", ".join(failed)}: failed, for the reason under '
                        'the table; run again with --resume')


if __name__ == '__main__':
    main()
