"""What each command line of this project imports first.

Importing this module keeps other libraries' warnings about their own future
from the terminal, unless Python was asked for warnings (``-W``,
``PYTHONWARNINGS``), and ends the program with one line where a package that
:mod:`vovnet` needs is missing or too old.
"""
import sys
import warnings

# Nobody who runs a tool can act on these. Some libraries say the same as plain
# UserWarnings; SyntaxWarnings come when a file is compiled for the first time.
if not sys.warnoptions:
    for category in (DeprecationWarning, PendingDeprecationWarning,
                     FutureWarning, SyntaxWarning):
        warnings.simplefilter('ignore', category)
    warnings.filterwarnings('ignore', r'(?is).*(deprecat|upcoming release|'
                            r'future (release|version))')

try:
    import vovnet  # noqa: F401  # before mmdet, for mmcv's operators
    from vovnet.requirements import TOOLS, find_missing
except ImportError as error:
    if not str(error).startswith('vovnet needs'):
        raise
    sys.exit(f'error: {error}')
if missing := find_missing(TOOLS):
    sys.exit(f'error: {missing}')
