"""Temporary files that disappear with the process, on a disk and not in RAM."""

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ringlet.devices.backends.disks.image_file import ImageFile
from ringlet.devices.backends.disks.interface import SECTOR, Trouble
from ringlet.errors import DiskError, remedy

_IN_RAM: Final = frozenset({"tmpfs", "ramfs"})
_NO_TMPFILE: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)


def create_scratch(
    path: Path, size: int, trouble: Trouble, environ: Mapping[str, str] = os.environ
) -> ImageFile:
    """Return a sparse file of `size` bytes without a name, for writes to the disk `path`.

    $TMPDIR is for files like this.  Without it, it is the cache directory, /var/tmp or the
    directory of `path`, whichever can be written first and is not in RAM.  Should there be none,
    or should $TMPDIR be in RAM, the user is told.  Raises DiskError.
    """
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    left: list[Path] = []
    for directory in _directories(path, environ):
        if is_in_ram(directory) and str(directory) != environ.get("TMPDIR"):
            left.append(directory)
            continue
        try:
            return _create(directory, path, size, trouble)
        except OSError as error:
            failure = error
    for directory in (*left, Path(tempfile.gettempdir())):
        try:
            return _create(directory, path, size, trouble)
        except OSError as error:
            failure = error
    what = f"disk {path}: no directory for the snapshot's writes: {failure.strerror}"
    raise DiskError(f"{what}; {remedy(failure) or 'set TMPDIR to one'}") from failure


def _directories(path: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    for name, below in (("TMPDIR", ""), ("XDG_CACHE_HOME", "ringlet")):
        if environ.get(name, "").startswith("/"):
            yield Path(environ[name]) / below
    if environ.get("HOME", "").startswith("/"):
        yield Path(environ["HOME"]) / ".cache" / "ringlet"
    yield Path("/var/tmp")  # noqa: S108 - the file has no name there
    yield path.absolute().parent


def _create(directory: Path, path: Path, size: int, trouble: Trouble) -> ImageFile:
    try:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(directory, flags, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE or not directory.is_dir():
            raise
        fd, name = tempfile.mkstemp(prefix=".ringlet-", dir=directory)
        os.unlink(name)  # noqa: PTH108 - a name, not a path
    try:
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    if is_in_ram(directory):
        trouble(f"disk {path}: the snapshot's writes take RAM ({directory}); set TMPDIR elsewhere")
    shown = Path(f"{path} (snapshot in {directory})")
    return ImageFile(shown, fd, size, size, SECTOR, read_only=False, temporary=True)


def is_in_ram(directory: Path) -> bool:
    """Return whether files of `directory` take RAM; False if it cannot be told."""
    try:
        device = directory.stat().st_dev
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():  # proc_pid_mountinfo(5)
        fields = line.split(" ")
        if fields[2] == wanted:
            return fields[fields.index("-") + 1] in _IN_RAM
    return False
