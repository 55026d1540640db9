"""What ``import vovnet`` changes in other libraries: all of it, listed here.

Some calls leave further changes behind in their process:

- ``torch._dynamo.config.recompile_limit``: :mod:`vovnet.deploy.optimize`
- ``torch.backends.cudnn.benchmark``: :mod:`vovnet.benchmark`
- ``logging.raiseExceptions``, ``threading.excepthook``, in command lines:
  :func:`vovnet.utils.errors.report_user_errors`
- ``os._exit`` at exit and ``LOCAL_RANK``, in distributed runs:
  :mod:`vovnet.engine.distributed`
- ``KINETO_LOG_LEVEL``: :mod:`vovnet.benchmark.memory`
- warning filters and the log record factory, in command lines:
  ``vovnet_cli``
"""
import functools
from collections.abc import Callable
from typing import Any


def apply_patches() -> None:
    """Apply all, those that later imports rely on first."""
    provide_mmcv_operators()
    restore_find_loader()
    register_configs()
    read_checkpoints_as_data()


def provide_mmcv_operators() -> None:
    """Let Python find ``mmcv._ext`` where mmcv has no compiled operators."""
    import vovnet_mmcv_ext
    vovnet_mmcv_ext.install()


def restore_find_loader() -> None:
    """Restore ``pkgutil.find_loader``, which Python 3.14 has removed."""
    import vovnet_mmcv_ext
    vovnet_mmcv_ext.restore_find_loader()


def register_configs() -> None:
    """Let MMEngine find ``vovnet::...``, in ``_base_`` and its hub.

    MMEngine builds what a base of another package names from that package's
    registry. This package has none: its detectors are mmdet's and its
    classifiers mmpretrain's, as each config's ``default_scope`` says. So its
    bases get no scope, like those given by a relative path.

    Reference: mmengine 0.10.7, ``config/utils.py``, ``config/config.py``
    (``Config._get_cfg_path``) and ``utils/package_utils.py``.
    """
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    # No distribution has this name, so MMEngine looks for the configs in the
    # folder of the imported package, however it was installed.
    MODULE2PACKAGE['vovnet'] = 'vovnet.version'
    get_cfg_path = Config._get_cfg_path

    def get_unscoped(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = get_cfg_path(cfg_path, filename)
        return path, None if scope == 'vovnet' else scope

    Config._get_cfg_path = staticmethod(get_unscoped)


def read_checkpoints_as_data() -> None:
    """Make MMEngine read every checkpoint with ``weights_only=True``.

    Whatever asks (``Runner``, ``init_cfg=dict(type='Pretrained')``,
    inferencers) gets the loaders of :mod:`vovnet.checkpoints`: for local
    files, and for the schemes that end in ``load_url`` (``http(s)://``,
    ``torchvision://``, ``open-mmlab://``, ``mmcls://``). torch's own
    ``load_url`` unpickles whatever is behind a link.
    """
    from mmengine.runner import checkpoint

    from .checkpoints.safe_load import load_from_local, load_url
    from .checkpoints.timm_hub import load_from_timm
    loader = checkpoint.CheckpointLoader
    checkpoint.load_url = load_url
    for prefix, load in loader._schemes.items():
        if load.__module__ == checkpoint.__name__:
            loader._schemes[prefix] = _raise_user_errors(load)
    loader.register_scheme('', load_from_local, force=True)
    loader.register_scheme('timm://', load_from_timm, force=True)


def _raise_user_errors(load: Callable) -> Callable:
    """Turn what MMEngine's loader of a scheme raises into a UserError."""
    from .utils.errors import UserError

    @functools.wraps(load)  # MMEngine logs a part of the function's name
    def load_or_refuse(filename: str, *args, **kwargs) -> Any:
        try:
            return load(filename, *args, **kwargs)
        except (KeyError, ImportError) as error:
            reason = ('MMEngine knows no weights of this name'
                      if isinstance(error, KeyError) else
                      str(error).splitlines()[0])
            raise UserError(f'checkpoint {filename}: {reason}; give a path, '
                            'a URL or timm://NAME') from error

    return load_or_refuse
