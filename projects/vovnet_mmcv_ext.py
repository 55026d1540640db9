"""Let Python find ``mmcv._ext`` where mmcv was installed without operators.

Importing this module appends one finder to ``sys.meta_path``. Python asks
it only after its own path finder, so a compiled ``mmcv._ext`` always wins;
where there is none (mmcv-lite), ``vovnet/ops/torchvision_ext.py`` becomes
that module. Nothing of mmcv, torch or vovnet is imported before somebody
asks for an operator.

``import vovnet`` imports this module. ``vovnet_mmcv_ext.pth``, installed
beside it, imports it at every start of the environment's Python as well.
What speaks for that hook: mmdet's own tools, spawned data loader workers
and ``pytest -n`` ask for operators before anyone had a chance to import
vovnet, and an error that told them what to do would still leave them
broken. What speaks against it: each start pays for it (well under a
millisecond more than the guard's own import) and
``mmcv_full_available()`` says yes. So the hook stays this small, and its
guard keeps quiet when the checkout has moved. Uninstalling removes it.

Source: the import protocol of the Python reference, section 5.3, and the
documentation of ``site`` for ``.pth`` files. No other code was consulted.
"""
import sys
from os.path import dirname, join

EXT_NAME = 'mmcv._ext'
EXT_FILE = join(dirname(__file__), 'vovnet', 'ops', 'torchvision_ext.py')


class MMCVExtFinder:
    """Finder (PEP 451) of ``mmcv._ext`` and of nothing else."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        """Answer ``mmcv._ext`` with the operators on torchvision.

        Args:
            fullname (str): Name of the module that is wanted.
            path (Sequence[str], optional): Not used.
            target (ModuleType, optional): Not used.

        Returns:
            importlib.machinery.ModuleSpec | None: None for other modules.
        """
        if fullname != EXT_NAME:
            return None
        restore_find_loader()
        from importlib.util import spec_from_file_location
        return spec_from_file_location(fullname, EXT_FILE)


def restore_find_loader():
    """Restore what Python 3.14 removed and mmengine and mmcv still call.

    Not at every start of Python: importing ``pkgutil`` takes 20 ms.
    """
    import pkgutil
    from importlib.util import find_spec
    if not hasattr(pkgutil, 'find_loader'):
        pkgutil.find_loader = lambda name: getattr(
            find_spec(name), 'loader', None)


def install():
    """Append the finder to ``sys.meta_path``, once.

    By name, because a reloaded module makes a new class.
    """
    names = [getattr(finder, '__name__', '') for finder in sys.meta_path]
    if MMCVExtFinder.__name__ not in names:
        sys.meta_path.append(MMCVExtFinder)


install()
