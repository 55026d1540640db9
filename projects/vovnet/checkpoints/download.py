"""Files from the network that are whole, or not there.

Own work on the standard library; HTTP ranges as in RFC 9110, section 14. The
cache is torch.hub's (``$TORCH_HOME/hub/checkpoints``), so that what is there
already serves.
"""
import glob
import hashlib
import http.client
import io
import os
import re
import socket
import time
import zipfile
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlparse
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from tqdm import tqdm

from ..utils.errors import UserError

TIMEOUT = 30  # seconds without a byte
WAITS = (1, 2, 4, 8)  # seconds before each further attempt
_BLOCK = 1 << 20


class _Broken(ConnectionError):
    """The connection ended before the file did."""


def fetch(url: str, checksum: str = '', folder: str | None = None,
          progress: bool = True) -> str:
    """Download a file once.

    What a broken connection has left is completed by the next attempt, also
    in another process and on another day. Processes that want the same file
    wait for the one that fetches it.

    Args:
        url: http(s) address.
        checksum: SHA-256 of the file in hexadecimal digits, or the beginning
            of it; ``'sha1:...'`` names another algorithm. Also checked where
            the file is in the cache already.
        folder: Where to keep it; by default torch.hub's cache.
        progress: Show a bar, on a terminal.

    Returns:
        str: The path of the file.

    Raises:
        UserError: If it cannot be had, or is not what it should be. Nothing
            of such a file stays in the cache.
    """
    folder = folder or os.path.join(torch.hub.get_dir(), 'checkpoints')
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, cache_name(url))
    with FileLock(f'{path}.lock'):
        if os.path.exists(path):
            if not _wrong(path, checksum):
                return path
            os.remove(path)
        part = _download(url, path, progress)
        if reason := _wrong(part, checksum):
            os.remove(part)
            raise UserError(f'checkpoint {url}: {reason}; the download has '
                            'been removed from the cache')
        os.replace(part, path)
    return path


def cache_name(url: str) -> str:
    """How a file is called in the cache.

    Addresses that share a name are kept apart; where the name ends with a
    hash it is torch.hub's.
    """
    name = os.path.basename(unquote(urlparse(url).path)) or 'checkpoint'
    stem, ending = os.path.splitext(name)
    if re.search(r'-[0-9a-f]{8,}(\.|$)', name):
        return name
    return f'{stem}.{_digest(url)}{ending}'


def _wrong(path: str, checksum: str) -> str | None:
    """Why a downloaded file must not be kept."""
    if reason := not_weights(path):
        return reason
    if checksum:
        return mismatch(path, checksum)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                return 'is damaged'
    return None


def mismatch(path: str, checksum: str) -> str | None:
    """Compare a file, or what is in its archive, with a checksum.

    Args:
        path: The file.
        checksum: As for :func:`fetch`.

    Returns:
        str | None: What is wrong, for the message of an error.
    """
    algorithm, _, wanted = checksum.lower().rpartition(':')
    digest = hashlib.new(algorithm or 'sha256')
    content = unwrapped(path)
    with open(path, 'rb') if content == path else content as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    found = digest.hexdigest()
    if found.startswith(wanted):
        return None
    return (f'is not the file that was published: its '
            f'{algorithm or "sha256"} is {found[:16]}..., expected '
            f'{wanted[:16]}...')


def unwrapped(path: str) -> str | io.BytesIO:
    """The file, or the only .pth in it where it is a zip archive of one.

    pytorchcv publishes ``NAME.pth.zip``.

    Returns:
        str | io.BytesIO: The path as it is, or what the archive holds.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) == 1 and names[0].endswith(('.pth', '.pt')):
                return io.BytesIO(archive.read(names[0]))
    return path


def not_weights(path: str) -> str | None:
    """Recognise what is often saved in place of weights, or return None."""
    with open(path, 'rb') as file:
        start = file.read(200)
    head = start.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if not head:
        return 'is empty (0 bytes); copy or download it again'
    if head.startswith(b'version https://git-lfs'):
        return 'is a Git LFS pointer, not the file; run `git lfs pull`'
    # No pickle, no zip begins so; a safetensors file may, with its length.
    if head.startswith(b'<') and start[8:9] != b'{':
        return ('is a web page, not a checkpoint; download it again with the '
                'direct link')
    return None


def _download(url: str, path: str, progress: bool) -> str:
    """Transfer a file with several attempts; returns its partial's name."""
    for attempt, wait in enumerate((*WAITS, None)):
        try:
            return _transfer(url, path, progress)
        except (URLError, TimeoutError, ConnectionError,
                http.client.HTTPException) as error:
            reason = getattr(error, 'reason', None) or error
            # Names that are not found twice: there is no network.
            final = isinstance(reason, socket.gaierror) and attempt > 0
            if isinstance(error, HTTPError):
                final = error.code < 500 and error.code not in (408, 416, 429)
                reason = f'{error.code} {error.reason}'
        if final or wait is None:
            raise UserError(
                f'checkpoint {url}: cannot be downloaded ({reason}); check '
                'the connection and the address, or download it elsewhere and '
                'give the path of the file')
        time.sleep(wait)


def _transfer(url: str, path: str, progress: bool) -> str:
    """Make one attempt, going on where another version of it has ended.

    The partial's name holds a digest of what the server calls this version of
    the file, so that two versions are never mixed.
    """
    parts = glob.glob(f'{glob.escape(path)}.*.part')
    have = os.path.getsize(parts[0]) if parts else 0
    request = Request(url, headers={'User-Agent': 'vovnet'})
    if have:
        request.add_header('Range', f'bytes={have}-')
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # nothing is left to send, or less is there
            _remove(parts)
        raise
    with response:
        version = response.headers.get('ETag') or \
            response.headers.get('Last-Modified') or ''
        part = f'{path}.{_digest(version)}.part'
        if response.status == 206 and not (
                version and parts == [part] and response.headers.get(
                    'Content-Range', '').startswith(f'bytes {have}-')):
            _remove(parts)
            raise _Broken('the file has changed on the server')
        if response.status != 206:
            _remove(parts)
            have = 0
        length = response.headers.get('Content-Length')
        total = have + int(length) if length else None
        with open(part, 'ab') as file, tqdm(
                total=total, initial=have, unit='B', unit_scale=True,
                desc=os.path.basename(path), leave=False,
                disable=None if progress else True) as bar:
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
        size = os.path.getsize(part)
    if total is not None and size < total:
        raise _Broken(f'only {size} of {total} bytes came')
    return part


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _remove(paths: list[str]) -> None:
    for path in paths:
        os.remove(path)
