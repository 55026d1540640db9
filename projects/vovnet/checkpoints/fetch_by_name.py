"""Weights by name: known weights and those of metafiles."""
from .download import fetch
from .known_weights import KnownWeights
from .metafiles import find_weights
from .safe_load import load_download
from .timm_hub import copy_from_timm, find_timm_file, load_from_timm


def download_weights(name: str, index: str, folder: str | None = None
                     ) -> tuple[KnownWeights, str]:
    """Download weights by name; return what is known of them, and their path.

    Args:
        name: As for :func:`find_weights`.
        index: Path of ``model-index.yml``.
        folder: Where to put the file; None for the cache.

    Raises:
        UserError: If there is no such name, or the file cannot be downloaded
            or read.
    """
    entry = find_weights(name, index)
    if not entry.url.startswith('timm://'):
        path = fetch(entry.url, entry.checksum, folder)
        load_download(path, entry.url)
        return entry, path
    model = entry.url.removeprefix('timm://')
    if folder:
        return entry, copy_from_timm(model, folder)
    load_from_timm(entry.url)
    return entry, find_timm_file(model)
