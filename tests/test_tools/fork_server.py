"""Runs tools in forks of a process that has imported what they import.

Each run is a process of its own with its own arguments, folder, environment
and output, as on a command line, but without the ten seconds of imports.

Reads one JSON object a line (argv, cwd, env, stdout, stderr) and answers with
the exit status. LARGEST_FILE in env limits what can be written, in bytes, as
a full disk would.
"""
import json
import os
import resource
import runpy
import sys
import traceback

import vovnet  # noqa: F401  isort: skip  # first, for mmcv's operators
import mmdet.datasets
import mmdet.engine
import mmdet.evaluation
import mmdet.models
import mmdet.visualization  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

from vovnet.engine import launch  # noqa: F401


def run(argv: list, cwd: str, env: dict, stdout: str, stderr: str) -> int:
    """Run a tool in this process and return its exit status."""
    os.chdir(cwd)
    os.environ.update(env)
    if 'LARGEST_FILE' in env:
        size = int(env['LARGEST_FILE'])
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name='__main__')
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == '__main__':
    print('ready', flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = run(**json.loads(line))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
