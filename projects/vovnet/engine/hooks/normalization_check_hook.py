"""A look at the images' normalisation before the first step.

Own work on MMEngine's hook points ``before_train`` and ``before_test``
(mmengine 0.10.7, ``runner/runner.py``), which come after the weights have
been loaded, by ``init_cfg`` as by ``load_from``.
"""
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checkpoints import check_normalization, record_normalization


@HOOKS.register_module()
class ImagesCheckHook(Hook):
    """Refuse images that are normalised otherwise than the weights want.

    What is trained is noted to want the images that it is trained on. The
    tools register this hook with every run, and read ``check_images`` of the
    config; elsewhere a config names it in ``custom_hooks``.

    Args:
        refuse: False lets other images pass.
    """

    priority = 'VERY_HIGH'

    def __init__(self, refuse: bool = True) -> None:
        self.refuse = refuse

    def before_test(self, runner: Runner) -> None:
        """Compare the model's data preprocessor with its weights.

        Args:
            runner: Its model has its weights.

        Raises:
            UserError: As :func:`~vovnet.checkpoints.check_normalization` says.
        """
        if self.refuse:
            check_normalization(runner.model)

    def before_train(self, runner: Runner) -> None:
        """Compare, and note for the checkpoints to come what is given.

        Args:
            runner: As for :meth:`before_test`.

        Raises:
            UserError: As there.
        """
        self.before_test(runner)
        record_normalization(runner.model)
