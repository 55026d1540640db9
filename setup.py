"""What setup.cfg cannot say: the start-up hook goes into site-packages.

``projects/vovnet_mmcv_ext.py`` explains the hook. As one of the
``data_files`` it is listed among the installed files, so that ``pip
uninstall`` removes it. Their target is relative to the prefix and names
the version of Python, so the wheel is tagged for that version.

Source: setuptools' documentation of ``data_files`` and ``bdist_wheel``,
and its ``command/editable_wheel.py`` (80.10).
"""
import sys
import sysconfig
from os.path import relpath

import setuptools


class Distribution(setuptools.Distribution):
    """A distribution whose editable installs take ``data_files`` along.

    ``editable_wheel`` asks for ``has_data``, which distutils spells
    ``has_data_files``.
    """

    has_data = setuptools.Distribution.has_data_files


SITE_PACKAGES = relpath(
    sysconfig.get_path('purelib'), sysconfig.get_path('data'))
PYTHON_TAG = 'py{}{}'.format(*sys.version_info)

setuptools.setup(
    distclass=Distribution,
    data_files=[(SITE_PACKAGES, ['projects/vovnet_mmcv_ext.pth'])],
    options={'bdist_wheel': {
        'python_tag': PYTHON_TAG
    }})
