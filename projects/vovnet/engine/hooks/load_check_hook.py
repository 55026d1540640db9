"""A verdict on every checkpoint that a runner loads.

Own work on MMEngine's hook points (mmengine 0.10.7, ``runner/runner.py``):
``before_run``, after which ``train`` fills a model by ``init_cfg``, and
``after_load_checkpoint``, which is called with what was read, before it is
put into the model.
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
from ..checks.detection_data import some


@HOOKS.register_module()
class LoadCheckHook(Hook):
    """Refuse a checkpoint of another model, report one that fits in part.

    Args:
        file: The checkpoint, for the messages.
        purpose: ``'test'`` and ``'resume'`` need every tensor of the model
            and no other; ``'start'`` (``load_from``) needs some of them, and
            the log says which were not loaded.
    """

    priority = 'VERY_HIGH'

    def __init__(self, file: str, purpose: str) -> None:
        self.file = file
        self.purpose = purpose

    def before_run(self, runner: Runner) -> None:
        """Do without the initial weights that the checkpoint replaces.

        They may be elsewhere by now, or need a network.

        Args:
            runner: Its model is built. A part of it that the checkpoint fills
                keeps no ``init_cfg`` of type 'Pretrained'.

        Raises:
            UserError: If the checkpoint cannot be read.
        """
        model = _unwrapped(runner.model)
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
        """Compare the checkpoint with the model.

        Args:
            runner: Its model is about to be filled.
            checkpoint: What was read.

        Raises:
            UserError: If the checkpoint does not serve the purpose, or was
                trained on classes in another order.
        """
        name = f'checkpoint {self.file}'
        needed = {'meta', 'message_hub', 'optimizer'}
        if self.purpose == 'resume' and not needed <= set(checkpoint):
            raise UserError(
                f'{name}: holds no state of training to resume (such as the '
                "optimizer's); to start from its weights use --cfg-options "
                f'load_from={self.file}')
        model = _unwrapped(runner.model)
        state = checkpoint['state_dict'] = get_state_dict(checkpoint, name)
        found = match_weights(model, state)
        whole = self.purpose != 'start'
        if not found.loaded or whole and not found.complete:
            raise UserError(
                f'{name}: is of another model ({found}); '
                + (not whole and suggest_use(state) or
                   'use the config that it was trained with'))
        if whole:
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
        line = (f'{name}: was trained on the classes {some(known)}, but '
                f'{split}_dataloader has {some(found)}')
        if sorted(known) == sorted(found) or \
                runner.default_scope.scope_name == 'mmpretrain':
            raise UserError(f'{line}; give the data the same classes, in the '
                            'same order')
        runner.logger.warning(line)


def _unwrapped(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _is_pretrained(init_cfg: dict | list | None) -> bool:
    cfgs = init_cfg if isinstance(init_cfg, list) else [init_cfg or {}]
    return any(cfg.get('type') in ('Pretrained', PretrainedInit)
               for cfg in cfgs)
