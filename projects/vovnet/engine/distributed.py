"""Start and end of the processes of a distributed run."""
import atexit
import logging
import multiprocessing
import os
import sys

import torch
from mmengine.config import Config

from ..utils.errors import UserError

_succeeded = False


def set_up_processes(cfg: Config) -> None:
    """Prepare this process for ``cfg.launcher``; without a GPU, over gloo.

    Args:
        cfg: Changed in place: without a GPU it gets the ``model_wrapper_cfg``
            that CPUs need.

    Raises:
        UserError: If the launcher needs GPUs that this machine lacks.
    """
    atexit.register(_leave)
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        if int(os.environ['LOCAL_RANK']) >= count:
            raise UserError(f'--launcher {cfg.launcher}: more processes than '
                            f'GPUs here, {count}; start one for each')
        return
    if cfg.launcher != 'pytorch':
        raise UserError(f'--launcher {cfg.launcher}: finds no GPU; on CPUs '
                        'use --launcher pytorch')
    # MMEngine would ask for a CUDA device, here and in the model's wrapper.
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))


def mark_success() -> None:
    """Note that this process has done what it was started for."""
    global _succeeded
    _succeeded = True


def _leave() -> None:
    """End this process before Python runs its destructors.

    After its last step torch 2.11 sometimes aborts a distributed process in
    them ("terminate called without an active exception"; with gloo, 1 of 12
    runs), so that a run that succeeded counts as failed.

    A process that failed does not destroy its group: NCCL would wait for
    collectives that the others have begun, and they wait until it is gone.
    """
    if _succeeded and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for worker in multiprocessing.active_children():
        worker.terminate()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if _succeeded else 1)
