"""Ground truth beside detections: ``detection_sheet.py CONFIG CHECKPOINT``.

Draws images of the config's test data, evenly spread, on one sheet.
"""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.analysis import draw_detection_sheet, sample_evenly
from vovnet.engine import predict
from vovnet.engine.checks import check_datasets
from vovnet.engine.cli import add_config_options
from vovnet.engine.config import load_config
from vovnet.engine.prepare import check_output_dir
from vovnet.utils.errors import UserError, report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw ground truth beside detections')
    add_config_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out', default='detections.png',
                        help='the picture (default: detections.png)')
    parser.add_argument('--num', default=12, type=int,
                        help='how many images (default: 12)')
    parser.add_argument('--columns', default=3, type=int,
                        help='pairs in a row (default: 3)')
    parser.add_argument('--score-thr', default=0.3, type=float,
                        help='lowest score to draw (default: 0.3)')
    parser.add_argument('--device', help='such as cuda:1 or cpu '
                        '(default: a GPU if there is one)')
    args = parser.parse_args()
    for name in ('num', 'columns'):
        if getattr(args, name) < 1:
            parser.error(f'--{name}: at least 1')
    return args


@report_user_errors()
def main() -> None:
    import mmcv
    from mmdet.registry import DATASETS
    args = parse_args()
    if not args.out.endswith(('.png', '.jpg')):
        raise UserError(f'--out {args.out}: name a .png or .jpg file')
    cfg = load_config(args.config, args.cfg_options)
    check_output_dir(os.path.dirname(args.out) or '.', '--out')
    check_datasets(cfg, ('test', ))
    model = predict.load_detector(cfg, args.checkpoint, args.device)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    sheet = draw_detection_sheet(
        model, dataset, sample_evenly(len(dataset), args.num), args.score_thr,
        args.columns, with_masks='mask_head' in cfg.model.get('roi_head', {}))
    mmcv.imwrite(sheet[..., ::-1], args.out)
    print(f'{args.out}: {min(args.num, len(dataset))} images, ground truth '
          'beside detections')


if __name__ == '__main__':
    main()
