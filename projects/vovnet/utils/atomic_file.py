"""Files that are written completely or not at all."""
import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


@register_backend('whole_file', force=True)
class WholeFileBackend(LocalBackend):
    """MMEngine file backend that writes atomically.

    MMEngine's own writes into the final file, which a full disk or a killed
    job leaves cut short.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write beside the target, flush to the disk, and rename.

        Raises:
            OSError: If the content could not be written. It names the target,
                whose old content stays; the partial file is removed.
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
