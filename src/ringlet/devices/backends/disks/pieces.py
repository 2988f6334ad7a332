"""Long requests in pieces, between which a disk looks whether anybody still waits.

What a guest has asked for must not keep the end of its run waiting: eight threads of a disk do a
piece each before they drop the rest.
"""

import os
from collections.abc import Iterator
from typing import Final

from ringlet.devices.backends.disks import vectors
from ringlet.devices.backends.disks.interface import DROPPED, Request

DATA: Final = 1 << 21
"""The most bytes of one piece that is read or written."""
RANGE: Final = 1 << 24
"""The most bytes of one piece of which only the host's file system hears, as a range: in a file of
many parts each of them takes time."""


def of_data(
    request: Request, buffers: list[memoryview]
) -> Iterator[tuple[int, list[memoryview]]]:
    """Yield the offsets and buffers of a read or write, whose data is in `buffers`.

    Raises OSError with errno DROPPED when the session is over.
    """
    if request.length <= DATA:
        yield request.offset, buffers
        return
    offset = request.offset
    while buffers:
        check(request)
        yield offset, vectors.part(buffers, 0, DATA)
        offset += DATA
        buffers = vectors.rest(buffers, DATA)


def of_range(
    request: Request, offset: int, length: int, most: int = RANGE
) -> Iterator[tuple[int, int]]:
    """Yield offsets and lengths, `most` at a time, of a range that belongs to `request`.

    Raises OSError with errno DROPPED when the session is over.
    """
    for piece in cut(offset, length, most):
        check(request)
        yield piece


def cut(offset: int, length: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield offsets and lengths of a range, `most` bytes at a time."""
    for at in range(offset, offset + length, most):
        yield at, min(most, offset + length - at)


def check(request: Request) -> None:
    """Raise OSError with errno DROPPED if the session of `request` is over."""
    if request.session.over:
        raise OSError(DROPPED, os.strerror(DROPPED))
