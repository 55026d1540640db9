"""Detect in images: ``demo/image_demo.py IMAGES CONFIG CHECKPOINT [options]``.

Writes ``<out dir>/vis/<image>`` (boxes and masks drawn) and
``<out dir>/preds/<image>.json``; the fields are described in
``vovnet/engine/predict.py``.
"""
import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))
import vovnet_cli

from vovnet.deploy.optimize.apply import optimize_for_batch
from vovnet.engine.cli import add_config_options, add_optimize_option
from vovnet.engine.config import load_config
from vovnet.engine.predict import detect_files, load_detector
from vovnet.engine.prepare import check_optimize_mode, check_output_dir
from vovnet.utils.errors import report_user_errors
from vovnet.utils.image_files import find_images, print_results


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Detect in images')
    parser.add_argument('images', help='image, folder or quoted glob pattern')
    add_config_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out-dir', default='outputs', type=Path,
                        help='folder for the results (default: outputs)')
    parser.add_argument('--score-thr', default=0.3, type=float,
                        help='lowest score to show (default: 0.3)')
    parser.add_argument('--device', help='such as cuda:1 or cpu '
                        '(default: a GPU if there is one)')
    parser.add_argument('--batch-size', default=1, type=int,
                        help='images in one step of the model (default: 1)')
    add_optimize_option(parser)
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error('--batch-size: at least 1')
    return args


@report_user_errors()
def main() -> None:
    args = parse_args()
    root, images = find_images(args.images)
    cfg = load_config(args.config, args.cfg_options)
    check_output_dir(args.out_dir, '--out-dir')
    model = load_detector(cfg, args.checkpoint, args.device)
    check_optimize_mode(args.optimize, next(model.parameters()).device)
    prepare = args.optimize and partial(
        optimize_for_batch, mode=args.optimize, progress=print)
    results = detect_files(model, cfg, root, images, args.out_dir,
                           args.score_thr, args.batch_size, prepare)
    print_results(results, lambda read: f'Results of {read} images are in '
                  f'{args.out_dir}')


if __name__ == '__main__':
    main()
