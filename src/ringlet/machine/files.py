"""Opens and reads the files that a loader copies into guest memory; each error is one line."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from ringlet.errors import ProgramError
from ringlet.machine.cpu import Memory

_CHUNK: Final = 1 << 20


def open_regular(path: Path, wanted: str) -> BinaryIO:
    """Open `path` for reading.  Messages tell the user to give `wanted` instead.

    Raises ProgramError.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ProgramError(f"{path}: is a directory; give {wanted}")
        if not stat.S_ISREG(mode):
            raise ProgramError(f"{path}: is not a regular file; give {wanted}")
        return path.open("rb")
    except FileNotFoundError:
        raise ProgramError(f"{path}: no such file") from None
    except ValueError:
        raise ProgramError("the program's path contains a zero byte") from None
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read: {error.strerror}") from None


def length_of(file: BinaryIO) -> int:
    """Return the length of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Return `size` bytes at `offset` of the file, or fewer at its end.

    Raises ProgramError if they cannot be read.
    """
    try:
        file.seek(offset)
        return file.read(size)
    except (OSError, OverflowError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "the offset is too large for a file"
        raise ProgramError(f"{file.name}: cannot be read: {why}") from None


def copy_to_memory(file: BinaryIO, offset: int, size: int, memory: Memory, address: int) -> None:
    """Copy `size` bytes at `offset` of the file to guest physical `address`.

    Raises ProgramError if the file was shortened meanwhile.
    """
    try:
        file.seek(offset)
        done = 0
        while done < size:
            data = file.read(min(_CHUNK, size - done))
            if not data:
                raise ProgramError(f"{file.name}: the file was shortened while being read")
            memory.write_phys(address + done, data)
            done += len(data)
    except OSError as error:
        raise ProgramError(f"{file.name}: cannot be read: {error.strerror}") from None
