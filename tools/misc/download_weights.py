"""Fetch published weights: ``download_weights.py NAME``.

With progress, resumed where it stopped, retried, and checked against the
published checksum where there is one (:mod:`vovnet.checkpoints`).
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.join(
    os.path.dirname(os.path.realpath(__file__)), '..', '..', 'projects'))
import vovnet_cli  # isort: skip  # noqa: F401  # first
from vovnet.checkpoints import download_weights
from vovnet.checkpoints.metafiles import INDEX, all_weights
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Fetch published weights')
    parser.add_argument('name', nargs='?', help='see --list')
    parser.add_argument('--list', action='store_true',
                        help='show all names, licences and addresses')
    parser.add_argument(
        '--out-dir', help="where to put the file (default: torch.hub's "
        "cache, where a config's URL finds it)")
    parser.add_argument('--index', default=INDEX,
                        help='model-index.yml with further names')
    args = parser.parse_args()
    if not (args.list or args.name):
        parser.error('give a NAME, or --list')
    return args


@report_user_errors()
def main() -> None:
    args = parse_args()
    if args.list:
        for name, entry in all_weights(args.index).items():
            print(f'{name}  [{entry.licence}]  {entry.url}')
        return
    entry, path = download_weights(args.name, args.index, args.out_dir)
    if entry.format == 'detectron2':
        use = ('next: python tools/model_converters/detectron2_to_mmdet.py '
               f'{path} {entry.config} DST.pth')
    else:
        # By its address, so that it stays known which file it is.
        where = path if args.out_dir else entry.url
        use = ("in a config's backbone: init_cfg=dict(type='Pretrained', "
               f"checkpoint='{where}')")
    print(f'{path}\nlicence: {entry.licence}; {use}')


if __name__ == '__main__':
    main()
