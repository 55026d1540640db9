"""Runs tools in forks of a process that has imported what they import.

Each run is a process of its own with its own arguments, folder, environment
and output, as on a command line, but without the ten seconds of imports,
and without what takes MMEngine seconds in each run and matters to no test.

Reads a JSON list of processes to run at the same time (argv, cwd, env, stdout,
stderr) from each line, and answers with the list of their exit statuses.
LARGEST_FILE in env limits what can be written, in bytes, as a full disk would.
"""
import atexit
import functools
import gc
import json
import os
import resource
import runpy
import sys
import traceback

import vovnet.engine.run  # noqa: F401  isort: skip  # for mmcv's operators
import mmdet.datasets
import mmdet.engine
import mmdet.evaluation
import mmdet.models
import mmdet.visualization  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
from mmengine.config import config as mmengine_config
from mmengine.config import utils as config_utils

from vovnet.engine.config import load_config


def save_time() -> None:
    """Do once, or not at all, what MMEngine would do in each run."""
    # A config is laid out by yapf each time that it is logged or saved.
    mmengine_config.FormatCode = lambda text, **style: (text, True)
    # All metafiles of a package are read for each of its configs.
    config_utils.load = functools.lru_cache(None)(config_utils.load)
    for runtime in 'default', 'classification':
        load_config(f'configs/_base_/{runtime}_runtime.py')
    # A data set collects garbage, among all that was imported.
    gc.collect()
    gc.freeze()


def start(argv: list, cwd: str, env: dict, stdout: str, stderr: str) -> int:
    """Run a tool in a fork, and return the process number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.chdir(cwd)
        os.environ.update(env)
        if 'LARGEST_FILE' in env:
            size = int(env['LARGEST_FILE'])
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        for number, path in ((1, stdout), (2, stderr)):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path, flags), number)
        status = run(argv)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def run(argv: list) -> int:
    """Run a tool in this process, and return its exit status."""
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
    save_time()
    print('ready', flush=True)
    for line in sys.stdin:
        children = [start(**process) for process in json.loads(line)]
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
               for child in children], flush=True)
