"""Hook that saves checkpoints completely or not at all."""
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...utils.errors import UserError


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, but never losing a good file.

    - A checkpoint is written completely or not at all, and
      ``last_checkpoint`` is updated after it.
    - What ``max_keep_ckpts`` and ``save_best`` replace is removed after the
      new file is complete (MMEngine: before), which takes room for one more
      checkpoint.
    - Training does not start if a checkpoint will not fit on the disk.

    Args:
        *args: As for ``CheckpointHook``.
        backend_args: By default :class:`WholeFileBackend`.
        **kwargs: As for ``CheckpointHook``.
    """

    def __init__(self, *args, backend_args: dict | None = None,
                 **kwargs) -> None:
        self.local = backend_args is None
        super().__init__(
            *args, backend_args=backend_args or dict(backend='whole_file'),
            **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Check that the disk has room for a checkpoint.

        Raises:
            UserError: If it has not.
        """
        super().before_train(runner)
        if not (self.local and is_main_process()):
            return
        os.makedirs(self.out_dir, exist_ok=True)
        need = _estimate_size(runner)
        free = shutil.disk_usage(self.out_dir).free
        if free < need:
            raise UserError(
                f'{self.out_dir}: a checkpoint takes {need / 2**20:.1f} MiB, '
                f'but the disk has {free / 2**20:.1f} MiB left; make room, or '
                'choose another place with --work-dir')

    def _save_checkpoint_with_step(self, runner: Runner, step: int,
                                   meta: dict) -> None:
        with self._postpone_removals():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._postpone_removals():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _postpone_removals(self) -> Iterator[None]:
        """Remove files only after what follows has succeeded."""
        backend = self.file_backend
        if not self.local or 'remove' in vars(backend):  # remote, or nested
            yield
            return
        replaced = []
        backend.remove = lambda path: replaced.append(
            (path, os.stat(path).st_ino))
        try:
            yield
        finally:
            del backend.remove
        for path, inode in replaced:
            if os.stat(path).st_ino == inode:  # else it was written anew
                backend.remove(path)


def _estimate_size(runner: Runner) -> int:
    """Return the bytes of weights and optimizer state."""
    model = runner.model
    if is_model_wrapper(model):
        model = model.module
    size = sum(t.numel() * t.element_size()
               for t in model.state_dict().values())
    for group in runner.optim_wrapper.param_groups:
        # Adam and its kin keep two tensors for each, SGD with momentum one.
        states = 2 if 'betas' in group else int(group.get('momentum', 0) > 0)
        size += states * sum(p.numel() * p.element_size()
                             for p in group['params'])
    return size
