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
from vovnet.engine import launch, predict
from vovnet.utils.errors import report_user_errors
from vovnet.utils.image_files import print_results


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Detect in images')
    parser.add_argument('images', help='image, folder or quoted glob pattern')
    launch.add_config_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out-dir', default='outputs', type=Path,
                        help='folder for the results (default: outputs)')
    parser.add_argument('--score-thr', default=0.3, type=float,
                        help='lowest score to show (default: 0.3)')
    parser.add_argument('--device', help='such as cuda:1 or cpu '
                        '(default: a GPU if there is one)')
    parser.add_argument('--batch-size', default=1, type=int,
                        help='images in one step of the model (default: 1)')
    launch.add_optimize_option(parser)
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error('--batch-size: at least 1')
    return args


@report_user_errors()
def main() -> None:
    args = parse_args()
    root, images = predict.find_images(args.images)
    cfg = launch.load_config(args.config, args.cfg_options)
    launch.check_work_dir(args.out_dir, '--out-dir')
    model = predict.load_detector(cfg, args.checkpoint, args.device)
    launch.check_optimize(args.optimize, next(model.parameters()).device)
    print_results(predict.detect(
        model, cfg, root, images, args.out_dir, args.score_thr,
        args.batch_size, args.optimize and partial(
            optimize_for_batch, mode=args.optimize, progress=print)),
        lambda read: f'Results of {read} images are in {args.out_dir}')


if __name__ == '__main__':
    main()
