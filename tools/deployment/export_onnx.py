"""A detector as ONNX: ``export_onnx.py CONFIG CHECKPOINT [--out FILE]``.

The file is run on pictures in ONNX Runtime and, where it is installed, in
OpenVINO, and is put in place only if it finds what the model finds
(``vovnet/deploy/export/verify.py``).
"""
import argparse
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.deploy.export import export, verify
from vovnet.engine import predict
from vovnet.engine.cli import add_config_options
from vovnet.engine.config import load_config
from vovnet.engine.prepare import check_output_dir
from vovnet.utils.errors import report_user_errors, require_package


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Export a detector to ONNX, and check it')
    add_config_options(parser)
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out', metavar='FILE', type=Path,
                        help='(default: <name of the config>.onnx)')
    parser.add_argument('--exporter', choices=export.EXPORTERS,
                        default=export.EXPORTERS[0],
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


def versions() -> str:
    found = []
    for package in ('torch', 'onnx', 'onnxruntime', 'openvino'):
        try:
            found.append(f'{package} {version(package)}')
        except PackageNotFoundError:
            found.append(f'{package} not installed')
    return ', '.join(found)


@report_user_errors()
def main() -> None:
    args = parse_args()
    out = args.out or Path(args.config).with_suffix('.onnx').name
    require_package(verify.BACKENDS[0], 'the check after an export')
    cfg = load_config(args.config, args.cfg_options)
    check_output_dir(str(Path(out).parent), '--out')
    model = predict.load_detector(cfg, args.checkpoint, 'cpu')
    images, source = verify.pictures(cfg, args.images, args.num_images)

    def check(file: Path) -> None:
        print(f'Comparing it with the model on {len(images)} pictures of '
              f'{source} ...', flush=True)
        for difference in verify.verify(model, cfg, file, images):
            print(f'  {difference}', flush=True)
        if args.eval:
            for name, metrics in verify.accuracies(model, cfg, file):
                print(f'  {name}: ' + ', '.join(
                    f'{key} {value:.4f}' for key, value in metrics.items()),
                    flush=True)

    print(f'Exporting {args.config} ({args.exporter}) ...', flush=True)
    files = export.export_detector(
        model, cfg, out, exporter=args.exporter, shape=args.shape,
        dynamic=args.dynamic, normalize=args.normalize, maps=args.maps,
        opset=args.opset, check=check)
    print(f'With {versions()}; allowed: {verify.TOLERANCES}')
    for file in files:
        print(f'Wrote {file} ({file.stat().st_size / 1e6:.1f} MB)')
    if not args.maps:
        print(f'Use it without torch: demo/onnx_demo.py {files[0]} IMAGES')


if __name__ == '__main__':
    main()
