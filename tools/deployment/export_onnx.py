"""Export a detector: ``export_onnx.py CONFIG CHECKPOINT [--out FILE]``.

The file is compared with the model in ONNX Runtime and, where it is
installed, in OpenVINO, and published only if it finds the same objects.
"""
import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.deploy.export.export import OPSETS, export_detector
from vovnet.deploy.export.verify import TOLERANCES, load_images
from vovnet.engine import predict
from vovnet.engine.cli import add_config_options
from vovnet.engine.config import load_config
from vovnet.engine.prepare import check_output_dir
from vovnet.utils.errors import report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Export a detector to ONNX, and check it')
    add_config_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out', metavar='FILE', type=Path,
                        help='(default: <name of the config>.onnx)')
    parser.add_argument('--exporter', choices=list(OPSETS),
                        default='torchscript',
                        help='of torch.onnx (default: torchscript)')
    parser.add_argument(
        '--shape', type=int, nargs=2, metavar=('H', 'W'),
        help="fix the input's height and width, px (default: free where the "
        "test pipeline keeps proportions, else the pipeline's)")
    parser.add_argument(
        '--dynamic', action='store_true', default=None,
        help='height and width are free; --shape is an example')
    parser.add_argument('--normalize', action='store_true',
                        help='the graph takes BGR pictures of uint8')
    parser.add_argument('--maps', action='store_true',
                        help="the head's maps only, without boxes and NMS")
    parser.add_argument('--opset', type=int, help='version of ONNX operators '
                        '(default: 17, or 18 with dynamo)')
    parser.add_argument(
        '--images', nargs='+', default=[], metavar='PLACE', help='images, '
        'folders or patterns to check on (default: the test data)')
    parser.add_argument('--num-images', type=int, default=8, metavar='N',
                        help='of these, at most (default: 8)')
    parser.add_argument(
        '--eval', action='store_true', help='afterwards, measure model and '
        "file on all test data by the config's metric")
    args = parser.parse_args()
    if args.eval and args.maps:
        parser.error('--eval: maps are no detections; leave out --maps')
    if args.num_images < 1:
        parser.error('--num-images: at least 1')
    return args


def list_versions() -> str:
    versions = []
    for package in ('torch', 'onnx', 'onnxruntime', 'openvino'):
        try:
            versions.append(f'{package} {version(package)}')
        except PackageNotFoundError:
            versions.append(f'{package} not installed')
    return ', '.join(versions)


@report_user_errors()
def main() -> None:
    args = parse_args()
    out = args.out or Path(Path(args.config).with_suffix('.onnx').name)
    cfg = load_config(args.config, args.cfg_options)
    check_output_dir(str(out.parent), '--out')
    model = predict.load_detector(cfg, args.checkpoint, 'cpu')
    images, source = load_images(cfg, args.images, args.num_images)
    print(f'Exporting {args.config} ({args.exporter}) and comparing it with '
          f'the model on {len(images)} pictures of {source} ...', flush=True)
    files = export_detector(
        model, cfg, out, images, exporter=args.exporter, opset=args.opset,
        evaluate=args.eval, shape=args.shape, dynamic=args.dynamic,
        normalize=args.normalize, maps=args.maps)
    print(f'With {list_versions()}; allowed: {TOLERANCES}')
    for file in files:
        print(f'Wrote {file} ({file.stat().st_size / 1e6:.1f} MB)')
    if not args.maps:
        print(f'Use it without torch: demo/onnx_demo.py {files[0]} IMAGES')


if __name__ == '__main__':
    main()
