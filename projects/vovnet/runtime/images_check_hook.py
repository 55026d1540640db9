"""A look at the images' normalisation before the first step.

Own work on MMEngine's hook points ``before_train`` and ``before_test``
(mmengine 0.10.7, ``runner/runner.py``), which come after the weights have
been loaded, by ``init_cfg`` as by ``load_from``.
"""
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checkpoints import check_images


@HOOKS.register_module()
class ImagesCheckHook(Hook):
    """Refuse images that are normalised otherwise than the weights want.

    The tools register it with every run; elsewhere a config names it in
    ``custom_hooks``.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Compare the model's data preprocessor with its weights.

        Args:
            runner: Its model has its weights.

        Raises:
            UserError: As :func:`~vovnet.checkpoints.check_images` says.
        """
        check_images(runner.model)

    before_test = before_train
