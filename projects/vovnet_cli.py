"""The first import of each command line of this project.

It keeps other libraries' warnings about their own future from the terminal,
unless Python was asked for warnings (``-W``, ``PYTHONWARNINGS``), and ends the
program with one line where a package is missing or too old.
"""
import logging
import re
import sys
import warnings

# Who runs a tool cannot act on these. Some libraries write them as plain
# UserWarnings or into a log; SyntaxWarnings come when a file is compiled.
FUTURE = r'(?is).*(deprecat|upcoming release|future (release|version))'


def make_record(*args, **kwargs) -> logging.LogRecord:
    """Make a log record, at debug level if it is such a warning."""
    record = logging.LogRecord(*args, **kwargs)
    if (record.levelno == logging.WARNING
            and re.match(FUTURE, str(record.msg))):
        record.levelno, record.levelname = logging.DEBUG, 'DEBUG'
    return record


if not sys.warnoptions:
    for category in (DeprecationWarning, PendingDeprecationWarning,
                     FutureWarning, SyntaxWarning):
        warnings.simplefilter('ignore', category)
    warnings.filterwarnings('ignore', FUTURE)
    logging.setLogRecordFactory(make_record)

try:
    import vovnet  # noqa: F401  # before mmdet, for mmcv's operators
    from vovnet.requirements import TOOLS, find_missing
except ImportError as error:
    if not str(error).startswith('vovnet needs'):
        raise
    sys.exit(f'error: {error}')
if missing := find_missing(TOOLS):
    sys.exit(f'error: {missing}')
