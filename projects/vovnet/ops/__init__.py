"""mmcv's operators without a compiler.

Importing this package makes ``mmcv.ops`` work on torchvision's kernels
where mmcv has none compiled (mmcv-lite), and changes nothing where it has:
``vovnet_mmcv_ext`` finds the module, ``torchvision_ext.py`` is it. Code
goes on importing its operators from ``mmcv.ops``.

Source: own work; see the two files for what they follow.
"""
from importlib.util import find_spec

import vovnet_mmcv_ext

__all__ = ['backend']


def backend():
    """Tell whose kernels ``mmcv.ops`` runs on.

    Returns:
        str: ``'compiled'`` for mmcv's own, ``'torchvision'`` for those of
        ``torchvision_ext.py``.

    Raises:
        ModuleNotFoundError: Where there is no mmcv at all.
    """
    origin = find_spec(vovnet_mmcv_ext.EXT_NAME).origin
    return ('torchvision'
            if origin == vovnet_mmcv_ext.EXT_FILE else 'compiled')
