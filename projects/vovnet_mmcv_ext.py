"""Let Python find ``mmcv._ext`` where mmcv has no compiled operators.

Importing this module appends a finder to ``sys.meta_path``. Python asks it
only after its own, so a compiled ``mmcv._ext`` always wins; where there is
none (mmcv-lite), ``vovnet/ops/torchvision_ext.py`` becomes that module.

``vovnet_mmcv_ext.pth``, installed beside this file, imports it at every start
of the environment's Python, because mmdet's own tools, spawned data loader
workers and ``pytest -n`` ask for operators before anyone can import vovnet.
Every start pays for that, so this module imports nothing heavy. The guard in
the .pth file keeps quiet when the checkout has moved.
"""
import sys
from os.path import dirname, join

EXT_NAME = 'mmcv._ext'
EXT_FILE = join(dirname(__file__), 'vovnet', 'ops', 'torchvision_ext.py')


class MMCVExtFinder:
    """Finder (PEP 451) of ``mmcv._ext`` alone."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        """Return the spec of torchvision's operators, or None."""
        if fullname != EXT_NAME:
            return None
        restore_find_loader()
        from importlib.util import spec_from_file_location
        return spec_from_file_location(fullname, EXT_FILE)


def restore_find_loader():
    """Restore what Python 3.14 removed and mmengine and mmcv still call."""
    # Not at every start of Python: importing pkgutil takes 20 ms.
    import pkgutil
    from importlib.util import find_spec
    if not hasattr(pkgutil, 'find_loader'):
        pkgutil.find_loader = lambda name: getattr(
            find_spec(name), 'loader', None)


def install():
    """Append the finder to ``sys.meta_path``, once."""
    # By name, because a reloaded module makes a new class.
    names = [getattr(finder, '__name__', '') for finder in sys.meta_path]
    if MMCVExtFinder.__name__ not in names:
        sys.meta_path.append(MMCVExtFinder)


install()
