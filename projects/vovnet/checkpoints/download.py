"""Downloads that are whole, or not there.

HTTP ranges as in RFC 9110, section 14. The cache is that of torch.hub
(``$TORCH_HOME/hub/checkpoints``), so its files serve here too.
"""
import glob
import hashlib
import io
import os
import re
import socket
import time
import zipfile
from http.client import HTTPException
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


def fetch(url: str, checksum: str = '', folder: str | None = None,
          progress: bool = True) -> str:
    """Download a file, unless the cache has it, and return its path.

    An interrupted download is resumed, also by another process later.
    Processes that want the same file wait for the one that downloads it.

    Args:
        url: HTTP(S) address.
        checksum: SHA-256 in hexadecimal digits, or their beginning;
            ``'sha1:...'`` names another algorithm. Cached files are checked
            as well.
        folder: None for torch.hub's cache.
        progress: Show a progress bar on a terminal.

    Raises:
        UserError: If the file cannot be downloaded or is the wrong one, which
            is then removed.
    """
    folder = folder or os.path.join(torch.hub.get_dir(), 'checkpoints')
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, get_cache_name(url))
    with FileLock(f'{path}.lock'):
        if os.path.exists(path):
            if not _find_fault(path, checksum):
                return path
            os.remove(path)
        part = _download(url, path, progress)
        if fault := _find_fault(part, checksum):
            os.remove(part)
            raise UserError(f'checkpoint {url}: {fault}; the download has '
                            'been removed from the cache')
        os.replace(part, path)
    return path


def get_cache_name(url: str) -> str:
    """Return a file's name in the cache.

    It is torch.hub's if it ends with a hash. Otherwise a digest of the URL
    is added, because many files are called ``model_final.pth``.
    """
    name = os.path.basename(unquote(urlparse(url).path)) or 'checkpoint'
    if re.search(r'-[0-9a-f]{8,}(\.|$)', name):
        return name
    stem, ending = os.path.splitext(name)
    return f'{stem}.{_digest(url)}{ending}'


def _find_fault(path: str, checksum: str) -> str | None:
    if fault := find_foreign_content(path):
        return fault
    if checksum:
        return find_mismatch(path, checksum)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return 'is damaged' if archive.testzip() else None
    return None


def find_mismatch(path: str, checksum: str) -> str | None:
    """Compare a file with a checksum; return what differs, or None."""
    algorithm, _, expected = checksum.lower().rpartition(':')
    algorithm = algorithm or 'sha256'
    digest = hashlib.new(algorithm)
    content = unzip_checkpoint(path)
    with open(path, 'rb') if content == path else content as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    found = digest.hexdigest()
    if found.startswith(expected):
        return None
    return (f'is not the file that was published: its {algorithm} is '
            f'{found[:16]}..., expected {expected[:16]}...')


def unzip_checkpoint(path: str) -> str | io.BytesIO:
    """Return what ``NAME.pth.zip`` holds, as pytorchcv publishes weights.

    Other files, which have no archive around them, come back as their path.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) == 1 and names[0].endswith(('.pth', '.pt')):
                return io.BytesIO(archive.read(names[0]))
    return path


def find_foreign_content(path: str) -> str | None:
    """Recognize what is often saved in place of weights."""
    with open(path, 'rb') as file:
        start = file.read(200)
    head = start.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if not head:
        return 'is empty (0 bytes); copy or download it again'
    if head.startswith(b'version https://git-lfs'):
        return 'is a Git LFS pointer, not the file; run `git lfs pull`'
    # No pickle or zip begins with "<", but the length of a safetensors
    # header can.
    if head.startswith(b'<') and start[8:9] != b'{':
        return ('is a web page, not a checkpoint; download it again with the '
                'direct link')
    return None


def _download(url: str, path: str, progress: bool) -> str:
    """Transfer a file in several attempts; return the partial's path."""
    for attempt, wait in enumerate((*WAITS, None)):
        try:
            return _transfer(url, path, progress)
        except HTTPError as error:
            reason = f'{error.code} {error.reason}'
            final = error.code < 500 and error.code not in (408, 416, 429)
        except (URLError, TimeoutError, ConnectionError,
                HTTPException) as error:
            reason = getattr(error, 'reason', error)
            # A name that is not found twice: there is no network.
            final = isinstance(reason, socket.gaierror) and attempt > 0
        if final or wait is None:
            raise UserError(
                f'checkpoint {url}: cannot be downloaded ({reason}); check '
                'the connection and the URL, or download it elsewhere and '
                'give the path of the file')
        time.sleep(wait)


def _transfer(url: str, path: str, progress: bool) -> str:
    """Make one attempt, which goes on where an earlier one ended.

    The partial's name holds a digest of the server's version of the file, so
    that two versions are never mixed.
    """
    parts = glob.glob(f'{glob.escape(path)}.*.part')
    size = os.path.getsize(parts[0]) if parts else 0
    request = Request(url, headers={'User-Agent': 'vovnet'})
    if size:
        request.add_header('Range', f'bytes={size}-')
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == 416:  # the server's file is no longer than the part
            _remove(parts)
        raise
    with response:
        headers = response.headers
        version = headers.get('ETag') or headers.get('Last-Modified') or ''
        part = f'{path}.{_digest(version)}.part'
        resumed = response.status == 206
        same = version and parts == [part] and headers.get(
            'Content-Range', '').startswith(f'bytes {size}-')
        if not (resumed and same):
            _remove(parts)
            size = 0
        if resumed and not same:
            raise ConnectionError('the file has changed on the server')
        length = headers.get('Content-Length')
        total = size + int(length) if length else None
        with open(part, 'ab') as file, tqdm(
                total=total, initial=size, unit='B', unit_scale=True,
                desc=os.path.basename(path), leave=False,
                disable=None if progress else True) as bar:
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    size = os.path.getsize(part)
    if total is not None and size < total:
        raise ConnectionError(f'only {size} of {total} bytes came')
    return part


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _remove(paths: list[str]) -> None:
    for path in paths:
        os.remove(path)
