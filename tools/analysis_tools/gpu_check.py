"""Run checks that need a GPU: ``gpu_check.py CHECK [CHECK ...]``.

Called by ``make gpu``; the checks are in :mod:`vovnet.benchmark.gpu_checks`.
"""
import argparse
import json
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'projects'))
import vovnet_cli

from vovnet.benchmark.gpu_checks import CHECKS
from vovnet.benchmark.latency import DEVICE_TYPES
from vovnet.utils.devices import find_device
from vovnet.utils.errors import UserError, report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run checks that need a GPU')
    parser.add_argument('checks', nargs='+', choices=CHECKS, metavar='CHECK',
                        help=', '.join(CHECKS))
    parser.add_argument('--device', default='cuda', help='cuda, cuda:N or cpu')
    parser.add_argument('--small', action='store_true',
                        help='use the smallest sizes')
    parser.add_argument('--out', required=True, metavar='FILE.json',
                        help='results; checks that passed in it are not '
                        'repeated')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    device, out = find_device(args.device, DEVICE_TYPES), Path(args.out)
    results = json.loads(out.read_text()) if out.exists() else {}
    for name in args.checks:
        if results.get(name, {}).get('ok'):
            continue
        start = time.monotonic()
        try:
            result = dict(dict(ok=True), **CHECKS[name](device, args.small))
        except Exception as error:  # the other checks go on
            traceback.print_exc()
            result = dict(ok=False, error=f'{type(error).__name__}: {error}')
        result['seconds'] = round(time.monotonic() - start, 1)
        results[name] = result
        out.write_text(json.dumps(results, indent=1))
        print(name, json.dumps(result), flush=True)
    failed = [name for name in args.checks if not results[name]['ok']]
    if failed:
        raise UserError(f'failed checks: {", ".join(failed)}; see {out}')


if __name__ == '__main__':
    main()
