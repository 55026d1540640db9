"""Convert a detector of detectron2 into a checkpoint of mmdet.

Faster and Mask R-CNN of vovnet-detectron2, FCOS of AdelaiDet and the box
branch of centermask2 (:mod:`vovnet.checkpoints.detectron2`).
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.checkpoints import convert_detectron2
from vovnet.engine.config import load_config
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Convert a detector of detectron2')
    parser.add_argument('src', help='the file of the authors, or its URL')
    parser.add_argument(
        'config', help='config of the same detector, such as configs/'
        'faster_rcnn/faster-rcnn_vovnetv2-39_fpn_d2-3x_coco.py')
    parser.add_argument('dst', help='the new file')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    found = convert_detectron2(
        args.src, load_config(args.config), args.dst)
    print(f'{args.src}: {found.backbone}')
    print(f'{args.dst}: {found}')
    print(f'next: python tools/test.py {args.config} {args.dst}')


if __name__ == '__main__':
    main()
