"""Memory and time of training steps: ``training_memory.py [ARCH ...]``.

Compares VoVNet, in each mode of ``with_cp``, with timm's network of the arch.
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

from vovnet.benchmark import training
from vovnet.benchmark.model import DTYPES
from vovnet.utils.errors import UserError, report_user_errors
from vovnet.utils.table import FORMATS, check_files

SETUP = training.Setup()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure the memory and the time of training steps, '
        "beside timm's",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('archs', nargs='*', default=['V2-39'],
                        metavar='ARCH', help=', '.join(training.TIMM))
    parser.add_argument('--shape', nargs='+', type=int, metavar='PX',
                        default=SETUP.shape, help='height and width of the '
                        'images, or one number for both')
    parser.add_argument('--batch-size', type=int, metavar='N',
                        default=SETUP.batch_size, help='images of a step')
    parser.add_argument('--device', help='cpu, cuda or cuda:N (default: a GPU '
                        'if there is one)')
    parser.add_argument('--dtype', choices=DTYPES, default=SETUP.dtype,
                        help='fp32, or the type of autocast')
    parser.add_argument('--channels-last', action='store_true',
                        help='channels are the fastest dimension in memory')
    parser.add_argument('--threads', type=int, metavar='N',
                        help="CPU threads (default: torch's choice)")
    parser.add_argument('--rounds', type=int, default=SETUP.rounds,
                        metavar='N', help='steps of each network, in turns')
    parser.add_argument('--out', nargs='+', default=[], metavar='FILE',
                        help='written in the format of their names: '
                        f'{", ".join(FORMATS)}')
    parser.add_argument('--overwrite', action='store_true',
                        help='replace existing files of --out')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    check_files(args.out, args.overwrite)
    if args.threads is not None:
        if args.threads < 1:
            raise UserError(f'--threads {args.threads}: give at least 1')
        torch.set_num_threads(args.threads)
    if not args.device:
        args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    setup = training.Setup(args.shape, args.batch_size, args.device,
                           args.dtype, args.channels_last, args.rounds)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task('', total=training.count_steps(args.archs, setup))
        found = training.measure_training(
            args.archs, setup, lambda text: bar.update(
                task, description=text, advance=1),
            lambda found: training.save(found, args.out))
    print(training.write_markdown(found))
    for file in args.out:
        print(f'Written: {file}')


if __name__ == '__main__':
    main()
