"""``vovnet::`` in MMEngine: in ``_base_``, and in ``mmengine.hub``.

MMEngine finds the configs of packages that it has in a table, in the
package's ``.mim/configs``. Importing this module adds this one.

What a base from another package names, MMEngine builds from the registry of
that package. This one has none: its detectors are mmdet's and its
classifiers mmpretrain's, as ``default_scope`` says in each config. So its
bases stay without a scope, as if they had been given by a relative path.

Source: mmengine 0.10.7, ``config/utils.py`` (``MODULE2PACKAGE``),
``config/config.py`` (``Config._get_cfg_path``), ``utils/package_utils.py``.
"""
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

# No distribution has this name. So MMEngine takes the folder of the module:
# of the package that is imported, however it was installed, or not at all.
MODULE2PACKAGE['vovnet'] = 'vovnet.version'

_get_cfg_path = Config._get_cfg_path


def _get_unscoped(cfg_path: str, filename: str) -> tuple[str, str | None]:
    path, scope = _get_cfg_path(cfg_path, filename)
    return path, None if scope == 'vovnet' else scope


Config._get_cfg_path = staticmethod(_get_unscoped)
