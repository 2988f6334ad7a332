"""The store of fetched files in the user's cache directory; each use checks their hashes.

    $XDG_CACHE_HOME/ringlet/
        lock                        held by the one process that changes the files below
        apt/RELEASE/                package lists (`ringlet.images.apt`)
        lists/RELEASE/              package lists without apt (`ringlet.images.repository`)
        kernels/RELEASE/NAME/       an entry: its files, and manifest.json, written last
        packages/RELEASE/NAME/
        tools/RELEASE/NAME/
        modules/VERSION/            a kernel's modules (`ringlet.images.building`)
        images/NAME/                images of guests (`ringlet.images.catalog`)
        translations/               `ringlet.machine.translations`
        bench/                      `ringlet.bench`

An entry is made in a temporary directory beside its place and then renamed, so that it is never
incomplete.  Its manifest has the SHA-256 of each file.  An entry that does not match its manifest
counts as absent, and the next fetch replaces it.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.config import format_size
from ringlet.errors import ImageError, remedy

_MANIFEST: Final = "manifest.json"
UNFINISHED: Final = ".unfinished-"
_FORMAT: Final = 1
ROOM_FOR_ALL: Final = 200 << 20
"""The bytes that a kernel, tools and package lists need, including temporary files."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory of the store with its manifest's facts and its files' hashes."""

    path: Path
    facts: Mapping[str, str]
    hashes: Mapping[str, str]

    def file(self, name: str) -> Path | None:
        """Return the path of the file `name`, or None if it has changed since it was fetched."""
        path = self.path / name
        try:
            return path if sha256(path) == self.hashes.get(name) else None
        except OSError:
            return None


class Store:
    """The cache directory.  Its methods raise ImageError."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, kind: str, name: str) -> Entry | None:
        """Return the entry, or None if there is none or its manifest is invalid."""
        path = self.root / kind / name
        try:
            content = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                return None
            return Entry(path, dict(content["facts"]), dict(content["sha256"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def busy(self) -> bool:
        """Return whether another process holds the store's lock."""
        return is_locked(self.root / "lock", fcntl.LOCK_SH)

    @contextlib.contextmanager
    def locked(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the store's lock; `on_wait` is called if another process holds it."""
        with self._explained():
            self.root.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def adding(self, kind: str, name: str, room: int = 0) -> Iterator[tuple[Path, dict[str, str]]]:
        """Give an empty directory and facts to fill; if the body succeeds, they become the entry.

        The caller must hold the lock.  `room` is the free space that the body needs, in bytes.
        """
        facts: dict[str, str] = {}
        place = self.root / kind / name
        with self._explained():
            place.parent.mkdir(parents=True, exist_ok=True)
            if free_space(place.parent) < room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for left in place.parent.glob(f"{UNFINISHED}*"):  # left by a killed process
                shutil.rmtree(left, ignore_errors=True)
            made = place.parent / f"{UNFINISHED}{os.getpid()}"
            try:
                made.mkdir(0o700)
                yield made, facts
                _write_manifest(made, facts)
                if place.exists():
                    shutil.rmtree(place)
                made.rename(place)
            finally:
                shutil.rmtree(made, ignore_errors=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explain(error, self.root) from error


def explain(error: OSError, root: Path) -> ImageError:
    """Return the error to raise when the cache directory `root` cannot be written."""
    what = f"{root}: cannot write the cache: {error.strerror or error}"
    if limit := remedy(error):
        return ImageError(f"{what}; {limit}")
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            advice = f"free {format_size(ROOM_FOR_ALL)} there"
        case _:
            advice = "make it writable"
    return ImageError(f"{what}; {advice}, or set XDG_CACHE_HOME to another directory")


def default_root(environ: Mapping[str, str] = os.environ) -> Path:
    """Return Ringlet's directory by the XDG Base Directory Specification.

    Where there is no home directory, or none that can be written, it is one of this user's below
    the directory for temporary files, and a line says so once.  Raises ImageError.
    """
    given = environ.get("XDG_CACHE_HOME", "")
    if given.startswith("/"):  # the specification says to ignore relative paths
        return Path(given) / "ringlet"
    try:
        wanted = Path.home() / ".cache" / "ringlet"
    except RuntimeError:
        return _temporary_root("this user has no home directory")
    if _is_directory(wanted / "kernels") or _is_writable(wanted):
        return wanted
    return _temporary_root(f"{wanted} cannot be written")


def _is_directory(path: Path) -> bool:
    """Return whether `path` is a directory that this user may reach."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_writable(directory: Path) -> bool:
    """Return whether this user may write `directory`, which is created if it is absent."""
    try:
        # No home directory is made, such as /nonexistent, which root could.
        for made in (directory.parent, directory):
            made.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)


@functools.cache
def _temporary_root(why: str) -> Path:
    """Return a directory of this user alone below the directory for temporary files."""
    place = Path(tempfile.gettempdir()) / f"ringlet-{os.geteuid()}"
    try:
        place.mkdir(0o700, exist_ok=True)
        status = place.lstat()
    except OSError as error:
        raise ImageError(
            f"{why}, nor can {place}: {error.strerror}; set XDG_CACHE_HOME to a directory"
        ) from None
    # Others may write the parent, so that it may be theirs, or lead elsewhere.
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not private or status.st_uid != os.geteuid():
        raise ImageError(
            f"{why}, and {place} is not a directory of this user alone; set XDG_CACHE_HOME"
        )
    import logging

    logging.getLogger("ringlet").warning(
        "ringlet: %s; what is fetched is kept in %s (set XDG_CACHE_HOME to change that)", why, place
    )
    return place


def translations_directory() -> Path | None:
    """Return the directory of kept translations, or None if there is no place for them."""
    try:
        return default_root() / "translations"
    except ImageError:
        return None


def free_space(directory: Path) -> int:
    """Return the number of bytes that can be written below `directory`."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def has_room_for_files(directory: Path) -> bool:
    """Return whether more files can be created below `directory`."""
    status = os.statvfs(directory)
    return not status.f_files or status.f_favail > 0  # some file systems have no such limit


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(directory: Path, facts: Mapping[str, str]) -> None:
    hashes = {path.name: sha256(path) for path in sorted(directory.iterdir())}
    for name in hashes:
        _sync(directory / name)
    manifest = directory / _MANIFEST
    content = {"format": _FORMAT, "facts": dict(facts), "sha256": hashes}
    manifest.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _sync(manifest)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_locked(path: Path, wanted: int) -> bool:
    """Return whether a lock of the file at `path` keeps one of the kind `wanted` from being taken.

    It does not if the file is absent, or is not this user's.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, wanted | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
