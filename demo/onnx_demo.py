"""Detect without torch: ``demo/onnx_demo.py FILE IMAGES [options]``.

FILE was written by ``tools/deployment/export_onnx.py``. Needs numpy, OpenCV
and onnxruntime (or openvino). Writes ``<out dir>/vis/<image>`` and
``<out dir>/preds/<image>.json``.
"""
import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'projects'))
try:
    from vovnet.utils.errors import report_user_errors, require_package
except ImportError as error:
    sys.exit(f'error: {error}')

with report_user_errors():
    require_package('numpy', 'the demo')
    require_package('cv2', 'the demo', 'opencv-python-headless')
from vovnet.deploy.onnx import Detector
from vovnet.deploy.onnx.results import detect_files
from vovnet.deploy.onnx.session import BACKENDS
from vovnet.utils.image_files import find_images, print_results


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Detect without torch')
    parser.add_argument('file', help='an exported detector, .onnx')
    parser.add_argument('images', help='image, folder or quoted glob pattern')
    parser.add_argument('--out-dir', default='outputs', type=Path,
                        help='folder for the results (default: outputs)')
    parser.add_argument('--score-thr', default=0.3, type=float,
                        help='lowest score to show (default: 0.3)')
    parser.add_argument('--backend', choices=BACKENDS, default=BACKENDS[0],
                        help=f'(default: {BACKENDS[0]})')
    parser.add_argument(
        '--providers', nargs='+', metavar='NAME', help="ONNX Runtime's, best "
        'first, such as CUDAExecutionProvider (default: the CPU)')
    parser.add_argument('--threads', type=int,
                        help="(default: the runtime's choice)")
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    detector = Detector(args.file, backend=args.backend,
                        providers=args.providers, threads=args.threads)
    root, images = find_images(args.images)
    start = time.perf_counter()

    def summarize(read: int) -> str:
        spent = (time.perf_counter() - start) / len(images) * 1e3
        return (f'Results of {read} images are in {args.out_dir} '
                f'({args.backend}, {spent:.0f} ms each with reading and '
                'writing)')

    print_results(detect_files(detector, root, images, args.out_dir,
                               args.score_thr), summarize)


if __name__ == '__main__':
    main()
