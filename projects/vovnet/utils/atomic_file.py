"""Files that are written whole or not at all.

Own work on MMEngine's interface (read in mmengine 0.10.7:
``fileio/backends/local_backend.py``). MMEngine writes into the final file,
which a full disk or a killed job leaves cut short.
"""
import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


@register_backend('whole_file', force=True)
class WholeFileBackend(LocalBackend):
    """Local files that are written whole or not at all.

    ``put`` writes beside the target, flushes to the disk and renames, which
    POSIX makes atomic. Until then an older file of that name stays as it is.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Args:
            obj: The content.
            filepath: The target; missing folders are made.

        Raises:
            OSError: If the content could not be written. It names the target,
                and nothing of the attempt is left.
        """
        target = Path(filepath)
        part = target.with_name(f'.{target.name}.{os.getpid()}.part')
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except OSError as error:
            raise OSError(
                error.errno, error.strerror, str(target)) from error
        finally:
            part.unlink(missing_ok=True)
