"""What only a GPU can show to be right: ``gpu_check.py CHECK [CHECK ...]``.

A part of ``make gpu``. What a check is, is in
:mod:`vovnet.benchmark.gpu_checks`.
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
from vovnet.benchmark.latency import MEASURED
from vovnet.utils.devices import find_device
from vovnet.utils.errors import UserError, report_user_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Check what only a GPU can show')
    parser.add_argument('checks', nargs='+', choices=CHECKS, metavar='CHECK',
                        help=', '.join(CHECKS))
    parser.add_argument('--device', default='cuda', help='cuda, cuda:N or cpu')
    parser.add_argument('--small', action='store_true',
                        help='the smallest sizes')
    parser.add_argument('--out', required=True, metavar='FILE.json',
                        help='checks that it has and that were right are not '
                        'made again')
    return parser.parse_args()


@report_user_errors()
def main() -> None:
    args = parse_args()
    device, out = find_device(args.device, MEASURED), Path(args.out)
    found = json.loads(out.read_text()) if out.exists() else {}
    for name in args.checks:
        if found.get(name, {}).get('ok'):
            continue
        start = time.monotonic()
        try:
            result = dict(dict(ok=True), **CHECKS[name](device, args.small))
        except Exception as error:  # a finding, and no end of the others
            traceback.print_exc()
            result = dict(ok=False, error=f'{type(error).__name__}: {error}')
        result['seconds'] = round(time.monotonic() - start, 1)
        found[name] = result
        out.write_text(json.dumps(found, indent=1))
        print(name, json.dumps(result), flush=True)
    wrong = [name for name in args.checks if not found[name]['ok']]
    if wrong:
        raise UserError(f'{", ".join(wrong)}: not right, see {out}')


if __name__ == '__main__':
    main()
