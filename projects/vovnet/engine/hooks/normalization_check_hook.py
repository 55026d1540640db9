"""Hook that compares the images' normalization with the weights'."""
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checkpoints import check_normalization, record_normalization


@HOOKS.register_module()
class ImagesCheckHook(Hook):
    """Hook that refuses another normalization than the weights expect.

    Checkpoints record the normalization that they were trained with. The
    tools add this hook to every run; ``check_images=False`` in a config
    accepts any normalization. Elsewhere name the hook in ``custom_hooks``.

    Args:
        refuse: False to accept any normalization.
    """

    priority = 'VERY_HIGH'

    def __init__(self, refuse: bool = True) -> None:
        self.refuse = refuse

    # Both come after weights have been loaded, by init_cfg and load_from.
    def before_test(self, runner: Runner) -> None:
        """Compare the model's data preprocessor with its weights."""
        if self.refuse:
            check_normalization(runner.model)

    def before_train(self, runner: Runner) -> None:
        """Compare, and record the normalization for checkpoints."""
        self.before_test(runner)
        record_normalization(runner.model)
