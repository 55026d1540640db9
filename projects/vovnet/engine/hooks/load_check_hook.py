"""Hook that checks every checkpoint that a runner loads.

In mmengine 0.10.7 ``before_run`` comes before weights are initialized by
``init_cfg``, and ``after_load_checkpoint`` before a checkpoint's are loaded.
"""
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from ...checkpoints import get_state_dict, match_weights
from ...checkpoints.compare import suggest_use
from ...utils.errors import UserError
from ..checks.common import abbreviate


@HOOKS.register_module()
class LoadCheckHook(Hook):
    """Hook that refuses checkpoints of another model.

    Args:
        file: The checkpoint, for messages.
        purpose: ``'test'`` and ``'resume'`` need exactly the model's tensors;
            ``'start'`` (``load_from``) needs some of them, and the others are
            logged.
    """

    priority = 'VERY_HIGH'

    def __init__(self, file: str, purpose: str) -> None:
        self.file = file
        self.purpose = purpose

    def before_run(self, runner: Runner) -> None:
        """Remove each 'Pretrained' ``init_cfg`` that the checkpoint replaces.

        Its file may be gone by now, or need a network.
        """
        model = _unwrap(runner.model)
        parts = {name: module for name, module in model.named_modules()
                 if _is_pretrained(getattr(module, 'init_cfg', None))}
        if self.purpose == 'test' or not parts:
            return
        name = f'checkpoint {self.file}'
        found = match_weights(model, get_state_dict(
            CheckpointLoader.load_checkpoint(self.file, 'cpu', 'silent'),
            name))
        lacking = found.missing + found.reshaped
        for part, module in parts.items():
            if not any(key.startswith(f'{part}.' if part else '')
                       for key in lacking):
                module.init_cfg = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the model and the data's classes.

        Raises:
            UserError: If the checkpoint does not serve the purpose, or was
                trained on other classes.
        """
        name = f'checkpoint {self.file}'
        needed = {'meta', 'message_hub', 'optimizer'}
        if self.purpose == 'resume' and not needed <= set(checkpoint):
            raise UserError(
                f'{name}: holds no state of training to resume (such as the '
                "optimizer's); to start from its weights use --cfg-options "
                f'load_from={self.file}')
        model = _unwrap(runner.model)
        state = checkpoint['state_dict'] = get_state_dict(checkpoint, name)
        found = match_weights(model, state)
        exact = self.purpose != 'start'
        if not found.loaded or exact and not found.complete:
            raise UserError(
                f'{name}: is of another model ({found}); '
                + (not exact and suggest_use(state) or
                   'use the config that it was trained with'))
        if exact:
            self._check_classes(runner, checkpoint.get('meta') or {}, name)
        if found.complete:
            runner.logger.info(f'{name}: {found}')
        else:
            runner.logger.warning(f'{name}: fits in part: {found}')

    def _check_classes(self, runner: Runner, meta: dict, name: str) -> None:
        """Compare the classes with those of the data.

        A classifier's data numbers them by itself, so that other names are an
        error there; elsewhere they may be new names of the same things.
        """
        split = 'test' if self.purpose == 'test' else 'train'
        data = getattr(runner, f'{split}_dataloader').dataset
        known, found = (
            list(info.get('classes') or ()) for info in
            (meta.get('dataset_meta') or {}, getattr(data, 'metainfo', {})))
        if not known or not found or known == found:
            return
        line = (f'{name}: was trained on the classes {abbreviate(known)}, but '
                f'{split}_dataloader has {abbreviate(found)}')
        if sorted(known) == sorted(found) or \
                runner.default_scope.scope_name == 'mmpretrain':
            raise UserError(f'{line}; give the data the same classes, in the '
                            'same order')
        runner.logger.warning(line)


def _unwrap(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _is_pretrained(init_cfg: dict | list | None) -> bool:
    cfgs = init_cfg if isinstance(init_cfg, list) else [init_cfg or {}]
    return any(cfg.get('type') in ('Pretrained', PretrainedInit)
               for cfg in cfgs)
