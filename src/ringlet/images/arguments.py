"""The arguments that Ringlet adds to the command line of a kernel that knows them."""

import re
import struct
from pathlib import Path
from typing import Final

HUGE_PAGES: Final = "thp_anon=16K,32K,64K:always;2M:inherit"
"""A page fault on new memory then gives a program up to 64 KiB of it instead of 4 KiB.

A page fault costs a guest far more than clearing 15 more pages.  Smaller mappings get the smaller
sizes.  Sizes that are not named would be turned off, so 2M stays at its default, which follows
transparent_hugepage=.
"""

_KNOWN_FROM: Final = (6, 12)
_MAGIC: Final = 0x202
_KERNEL_VERSION: Final = 0x20E
"""The field of a bzImage that has the offset of its version, as text, from 200h on."""
_TEXT_START: Final = 0x200
_LONGEST: Final = 256
_RELEASE: Final = re.compile(rb"(\d+)\.(\d+)[.\w+~-]*[ \0]")


def with_huge_pages(arguments: str, kernel: Path) -> str:
    """Return `arguments`, after HUGE_PAGES if `kernel` is a bzImage that knows it.

    Another kernel would give it to init, as an environment variable.
    """
    return f"{HUGE_PAGES} {arguments}" if _version(kernel) >= _KNOWN_FROM else arguments


def _version(kernel: Path) -> tuple[int, int]:
    """Return the two leading numbers of a bzImage's version, or zeros if it does not say them."""
    found = _RELEASE.match(kernel_release(kernel).encode() + b" ")
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)


def kernel_release(kernel: Path) -> str:
    """Return what `uname -r` prints under a bzImage; an empty text if it does not say it."""
    try:
        with kernel.open("rb") as file:
            head = file.read(_KERNEL_VERSION + 2)
            if len(head) < _KERNEL_VERSION + 2 or head[_MAGIC : _MAGIC + 4] != b"HdrS":
                return ""
            (offset,) = struct.unpack_from("<H", head, _KERNEL_VERSION)
            file.seek(_TEXT_START + offset)
            found = _RELEASE.match(file.read(_LONGEST))
    except OSError:
        return ""
    return found[0][:-1].decode() if found is not None and offset else ""
