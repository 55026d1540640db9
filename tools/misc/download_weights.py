"""Download known weights: ``download_weights.py NAME``.

Interrupted downloads are resumed, and files are checked against the published
checksum where there is one (:mod:`vovnet.checkpoints`).
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.checkpoints import download_weights
from vovnet.checkpoints.metafiles import INDEX, list_weights
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Download known weights')
    parser.add_argument('name', nargs='?', help='see --list')
    parser.add_argument('--list', action='store_true',
                        help='show all names, licenses and URLs')
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
        for name, entry in list_weights(args.index).items():
            print(f'{name}  [{entry.license}]  {entry.url}')
        return
    entry, path = download_weights(args.name, args.index, args.out_dir)
    if entry.format == 'detectron2':
        use = ('next: python tools/model_converters/detectron2_to_mmdet.py '
               f'{path} {entry.config} DST.pth')
    else:
        # The URL keeps it known which file it is.
        where = path if args.out_dir else entry.url
        use = ("in a config's backbone: init_cfg=dict(type='Pretrained', "
               f"checkpoint='{where}')")
    print(f'{path}\nlicense: {entry.license}; {use}')


if __name__ == '__main__':
    main()
