"""Fetching weights by name, wherever they are.

Own work; the names are those of :mod:`.published` and :mod:`.metafiles`.
"""
from .download import fetch
from .known_weights import Published
from .metafiles import find_weights
from .safe_load import load_download
from .timm_hub import copy_from_timm, load_from_timm, timm_file


def download_weights(name: str, index: str, folder: str | None = None
                     ) -> tuple[Published, str]:
    """Fetch weights by name.

    Args:
        name: As for :func:`find_weights`.
        index: As there.
        folder: Where to put the file; by default the cache of its kind.

    Returns:
        tuple[Published, str]: What is known of it, and its path.

    Raises:
        UserError: As :func:`find_weights` and
            :func:`~vovnet.checkpoints.fetch` do.
    """
    entry = find_weights(name, index)
    if not entry.url.startswith('timm://'):
        path = fetch(entry.url, entry.checksum, folder)
        load_download(path, entry.url)  # where no checksum has told
        return entry, path
    model = entry.url.removeprefix('timm://')
    if folder:
        return entry, copy_from_timm(model, folder)
    load_from_timm(entry.url)  # refuses what is damaged
    return entry, timm_file(model)
