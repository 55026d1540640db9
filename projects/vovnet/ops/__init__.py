"""mmcv's operators without a compiler.

After importing this package, ``mmcv.ops`` runs on torchvision's kernels where
mmcv has none compiled (mmcv-lite), and is unchanged where it has.
"""
from importlib.util import find_spec

import vovnet_mmcv_ext

__all__ = ['backend']


def backend() -> str:
    """Return whose kernels ``mmcv.ops`` runs on.

    Returns:
        'compiled' for mmcv's own, 'torchvision' for ``torchvision_ext.py``.

    Raises:
        ModuleNotFoundError: If mmcv is not installed.
    """
    origin = find_spec(vovnet_mmcv_ext.EXT_NAME).origin
    return ('torchvision'
            if origin == vovnet_mmcv_ext.EXT_FILE else 'compiled')
