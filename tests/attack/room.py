"""Canaries where a register that left its slot unnoticed would come: between the guest's windows.

Translated code reaches a guest's page at the page's linear address plus an addend, in a region of
64 GiB with as much room on either side.  The regions that the guest does not use get canaries, at
the offsets that its pages have in theirs.
"""

from __future__ import annotations

import ctypes
import mmap

from tests.differential import guest
from tests.differential.layout import Area
from tests.fuzz.canary import MARK, Mapping, host_mappings

STRIDE = 1 << 37
NEAR = 1 << 22
"""A value this near to a guest's page as the host has it is taken for a host address."""
_FIXED = 0x10
_NEAREST, _FARTHEST = 12, 160  # regions away: the guest's few come first
_EACH_WAY = 4
_SIZE = 16 * mmap.PAGESIZE
_PATTERN = b"".join((MARK << 32 | i).to_bytes(8, "little") for i in range(_SIZE // 8))

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip


def _windows() -> list[Mapping]:
    """Pages of guests as translated code reaches them: not the views of all their memory."""
    return [
        m
        for m in host_mappings()
        if m.name.startswith("/memfd:ringlet-ram") and m.end - m.start < guest.RAM_SIZE
    ]


def _pages(areas: tuple[Area, ...]) -> list[int]:
    """Where the host has the areas' second pages."""
    offsets = [guest.IMAGE + area.offset + mmap.PAGESIZE for area in areas]
    return [
        m.start + at - m.offset
        for at in offsets
        for m in _windows()
        if m.offset <= at < m.offset + m.end - m.start
    ]


def _is_free(start: int) -> bool:
    """The room is reserved, and nothing of a guest is within a region's length of it."""
    reserved = any(
        m.start <= start and start + _SIZE <= m.end and m.permissions == "---p"
        for m in host_mappings()
    )
    half = STRIDE // 2
    return reserved and all(m.start >= start + half or m.end <= start - half for m in _windows())


class Room:
    """The canaries around one guest that has touched `areas`."""

    def __init__(self, areas: tuple[Area, ...]) -> None:
        self._pages = _pages(areas)
        self._starts: list[int] = []
        self.distances: list[int] = []
        for page in self._pages:
            for way in (1, -1):
                far = (page + way * n * STRIDE for n in range(_NEAREST, _FARTHEST))
                for at in [at for at in far if _is_free(at - _SIZE // 2)][:_EACH_WAY]:
                    self._put(at - _SIZE // 2)
                    self.distances.append(at - page)

    def _put(self, start: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED
        at = _libc.mmap(start, _SIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if at != start:
            raise OSError(ctypes.get_errno(), "no room for a canary")
        ctypes.memmove(start, _PATTERN, _SIZE)
        self._starts.append(start)

    def changed(self) -> list[int]:
        """The canaries that are not what they were; they are mended."""
        found = [at for at in self._starts if ctypes.string_at(at, _SIZE) != _PATTERN]
        for at in found:
            ctypes.memmove(at, _PATTERN, _SIZE)
        return found

    def is_host(self, value: int) -> bool:
        """A guest's register holds what can only be a host address."""
        return any(abs(value - page) < NEAR for page in self._pages)
