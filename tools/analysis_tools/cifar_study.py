"""The paper's CIFAR-10 study: ``cifar_study.py CONFIG ... --checkpoints ...``.

Compares trained classifiers: accuracy, computation, memory access cost, time
and memory of a training step, and the weights of Figure 2. `make study` trains
three small ones for it.
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

from vovnet.engine.cli import add_config_options
from vovnet.engine.config import load_config
from vovnet.engine.prepare import check_output_dir
from vovnet.paper import cifar_study
from vovnet.utils.errors import UserError, report_user_errors
from vovnet.utils.table import build_terminal_table, save_report


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Set trained classifiers side by side',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_config_options(parser, several=True)
    parser.add_argument('--checkpoints', nargs='+', default=[],
                        metavar='FILE', help='weights of each config')
    parser.add_argument('--names', nargs='+', default=[], metavar='NAME',
                        help='of each config (default: of the file)')
    parser.add_argument('--out-dir', default='work_dirs/study', metavar='DIR',
                        help='study.md, study.json, figure2.png, figure2.csv')
    parser.add_argument('--shape', type=int, nargs=2, default=[32, 32],
                        metavar='PX', help='height and width of an image')
    parser.add_argument('--batch-size', type=int, metavar='N',
                        help="images of a step (default: the config's)")
    parser.add_argument('--device', default='cuda' if
                        torch.cuda.is_available() else 'cpu')
    parser.add_argument('--repeats', type=int, default=3, metavar='N',
                        help='turns in which steps are timed')
    parser.add_argument('--seconds', type=float, default=2., metavar='S',
                        help='length of a turn')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    names = args.names or [Path(config).stem for config in args.configs]
    if not len(args.configs) == len(args.checkpoints) == len(names) > 0:
        raise UserError(
            f'{len(args.configs)} configs, {len(args.checkpoints)} '
            f'--checkpoints, {len(names)} --names: give one of each for '
            'every network')
    check_output_dir(args.out_dir, '--out-dir')
    networks = [
        cifar_study.TrainedClassifier(
            name, load_config(config, args.cfg_options), checkpoint)
        for name, config, checkpoint in zip(
            names, args.configs, args.checkpoints)]
    rows = cifar_study.compute_figure2(networks)
    console = Console()
    found = cifar_study.compare_classifiers(
        networks, args.out_dir, args.device, args.batch_size, args.shape,
        args.repeats, args.seconds, lambda text: console.print(
            text, style='dim', highlight=False))
    console.print(build_terminal_table(cifar_study.list_rows(found)))
    for line in cifar_study.LEGEND:
        console.print(line, highlight=False)
    files = [Path(args.out_dir, f'study.{suffix}')
             for suffix in ('md', 'json')]
    save_report(found, files, cifar_study.write_markdown, indent=1)
    for file in *files, *cifar_study.draw_figure2(rows, args.out_dir):
        print(file)


if __name__ == '__main__':
    main()
