"""What pyproject.toml cannot say: a start-up hook, and the way for mim.

``projects/vovnet_mmcv_ext.py`` explains the hook. As one of the
``data_files`` it is listed among the installed files, so that ``pip
uninstall`` removes it.

Source: setuptools' documentation of ``data_files`` and ``bdist_wheel``,
its ``command/editable_wheel.py`` (80.10), and ``get_installed_path`` of
openmim 0.3.9 (``utils/utils.py``) and mmengine 0.10.7.
"""
from pathlib import Path

import setuptools
from setuptools.command.editable_wheel import editable_wheel


class Distribution(setuptools.Distribution):
    """A distribution whose editable installs take ``data_files`` along.

    ``editable_wheel`` asks for ``has_data``, which distutils spells
    ``has_data_files``.
    """

    has_data = setuptools.Distribution.has_data_files


class EditableWheel(editable_wheel):
    """An editable install that mim finds.

    mim looks for a package beside its metadata, in site-packages, where an
    editable one is not, and then there under the first of its top-level
    names. An absolute path joined to any folder stays what it is.
    """

    def run(self):
        """Build the wheel, with the package first among the names."""
        self._ensure_dist_info()
        names = Path(self.dist_info_dir, 'top_level.txt')
        package = Path(__file__).resolve().parent / 'projects' / 'vovnet'
        names.write_text(f'{package}\n{names.read_text()}')
        super().run()


setuptools.setup(
    distclass=Distribution,
    cmdclass={'editable_wheel': EditableWheel},
    # In a wheel, beside the folder of the data lies that of pure Python,
    # which goes into site-packages, of whichever Python it will be.
    data_files=[('../purelib', ['projects/vovnet_mmcv_ext.pth'])])
