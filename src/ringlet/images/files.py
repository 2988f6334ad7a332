"""Opens files that others may have made, such as those of an OCI image: only what has an end."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ringlet.errors import ImageError


def open_plain(path: Path, *, device: bool = False) -> BinaryIO:
    """Open a regular file for reading, or a link to one; with `device`, also a block device.

    A FIFO would make the caller wait for ever, and to open a device may do something.  Raises
    OSError and ImageError.
    """
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind) and not (device and stat.S_ISBLK(kind)):
        what = "a directory" if stat.S_ISDIR(kind) else "a pipe, a socket or a device"
        raise ImageError(f"{path}: a file is needed here, and this is {what}")
    # O_NONBLOCK: should the name lead to a FIFO by now, the call must not wait for its writer.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_IFMT(os.fstat(fd).st_mode) != stat.S_IFMT(kind):
        os.close(fd)
        raise ImageError(f"{path}: it was replaced while Ringlet opened it; try again")
    return os.fdopen(fd, "rb")
