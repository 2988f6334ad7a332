"""Kept translations on disk: one file for each guest kernel, read when a machine is made.

    $XDG_CACHE_HOME/ringlet/translations/
        key                 32 random bytes, made once
        NAME.translations   magic, identity of the translator, HMAC-SHA256 by the key, contents

The contents of such a file are run as code.  So a file is used only if it and its directory belong
to this user and nobody else may write them, and if the HMAC shows that it was made here, by this
translator, and is complete.  Any other file counts as absent, and the next run with enough new
translations replaces it.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

_MAGIC: Final = b"ringlet translations 1\n\0"
_MAC_AT: Final = len(_MAGIC) + 32
_HEADER: Final = _MAC_AT + 32
_SUFFIX: Final = ".translations"
_UNFINISHED: Final = ".unfinished-"
_ABANDONED_S: Final = 3600
_KEY_BYTES: Final = 32
MAX_FILES: Final = 8
"""The number of files that are kept, the most recently used ones."""

MAX_BYTES: Final = 64 << 20
"""The largest size of a valid file."""


class TranslationFile:
    """The translations of the guests that start from one kernel, for one translator."""

    def __init__(self, directory: Path, kernel: Path, identity: bytes) -> None:
        """`kernel` only determines the file's name; the contents are right for any guest."""
        self._directory = directory
        self._identity = identity
        name = hashlib.sha256(identity + os.fsencode(kernel.absolute())).hexdigest()[:32]
        self.path = directory / (name + _SUFFIX)

    def read(self) -> memoryview | None:
        """Return the contents, or None if there is no trustworthy file."""
        key = self._key()
        data = _read_private(self.path, MAX_BYTES)
        if key is None or data is None or not _is_private(self._directory):
            return None
        whole = memoryview(data)
        if whole[:_MAC_AT] != _MAGIC + self._identity:
            return None
        if not hmac.compare_digest(self._mac(key, whole[_HEADER:]), whole[_MAC_AT:_HEADER]):
            return None
        with contextlib.suppress(OSError):  # the directory may be read-only
            os.utime(self.path)
        return whole[_HEADER:]

    def write(self, contents: bytes) -> None:
        """Replace the file atomically.  Raises OSError.

        Nothing is written in a directory that others may write.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(self._directory):
            raise PermissionError(None, "others may write this directory", str(self._directory))
        key = self._key() or self._new_key()
        _replace(self.path, _MAGIC + self._identity + self._mac(key, contents), contents)
        self._tidy()

    def _mac(self, key: bytes, contents: bytes | memoryview) -> bytes:
        mac = hmac.new(key, self._identity, "sha256")
        mac.update(contents)
        return mac.digest()

    def _key(self) -> bytes | None:
        key = _read_private(self._directory / "key", _KEY_BYTES)
        return key if key is not None and len(key) == _KEY_BYTES else None

    def _new_key(self) -> bytes:
        key = secrets.token_bytes(_KEY_BYTES)
        _replace(self._directory / "key", key)
        # Another process may have replaced the key meanwhile.
        return self._key() or key

    def _tidy(self) -> None:
        """Remove the least recently used files, and unfinished files of killed processes."""
        files = [(path.stat().st_mtime, path) for path in self._directory.glob(f"*{_SUFFIX}")]
        for _, path in sorted(files, reverse=True)[MAX_FILES:]:
            path.unlink(missing_ok=True)
        for path in self._directory.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(OSError):  # another process has removed it
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()


def _is_private(directory: Path) -> bool:
    """Return whether the directory belongs to this user and nobody else can write it."""
    try:
        status = directory.stat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _read_private(path: Path, most: int) -> bytes | None:
    """Return the contents of this user's regular file of at most `most` bytes, else None."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb", buffering=0) as file:
        status = os.fstat(fd)
        if (
            not stat.S_ISREG(status.st_mode)
            or status.st_uid != os.geteuid()
            or status.st_mode & 0o022
            or status.st_size > most
        ):
            return None
        try:
            return file.read(most)
        except OSError:
            return None


def _replace(path: Path, *parts: bytes) -> None:
    """Replace `path` by a file that only this user can access."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_UNFINISHED, delete=False) as file:
        made = Path(file.name)
        try:
            for part in parts:
                file.write(part)
            file.flush()
            made.replace(path)
        except BaseException:
            made.unlink()
            raise
