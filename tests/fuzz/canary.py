"""Host memory that no guest may read or change, and where it stands."""
from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from pathlib import Path

from tests.differential.program import State

_PAGES = 16
SIZE = _PAGES * mmap.PAGESIZE
MARK = 0x5EC4E7C0
_MAP_32BIT = 0x40
_MAP_FIXED_NOREPLACE = 0x100000
_PATTERN = b"".join((MARK << 32 | i).to_bytes(8, "little") for i in range(SIZE // 8))
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                       ctypes.c_long)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/self/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    name: str


def host_mappings() -> list[Mapping]:
    """This process's mappings, in order."""
    out = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        words = line.split(None, 5)
        start, end = (int(x, 16) for x in words[0].split("-"))
        name = words[5] if len(words) > 5 else ""
        out.append(Mapping(start, end, words[1], int(words[2], 16), name))
    return out


class Canaries:
    """Arenas of a pattern: below 2 GiB, wherever the kernel likes, and at the edges of `beside`."""

    def __init__(self, beside: list[Mapping] | None = None) -> None:
        self._arenas: list[int] = []
        for flags in (0, 0, _MAP_32BIT, _MAP_32BIT):
            self._add(0, flags)
        for mapping in beside or []:
            self._add(mapping.end, _MAP_FIXED_NOREPLACE)
            self._add(mapping.start - SIZE, _MAP_FIXED_NOREPLACE)

    @property
    def addresses(self) -> list[int]:
        """Host address of each arena."""
        return list(self._arenas)

    def _add(self, address: int, flags: int) -> None:
        flags |= mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        at = _libc.mmap(address or None, SIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if at is None or at == _FAILED:
            return  # something stands there already
        ctypes.memmove(at, _PATTERN, SIZE)
        self._arenas.append(at)

    def changed(self) -> list[int]:
        """Host addresses whose canary changed, the first of each arena; and mends them."""
        out = []
        for at in self._arenas:
            now = ctypes.string_at(at, SIZE)
            if now != _PATTERN:
                out.append(at + next(i for i in range(SIZE) if now[i] != _PATTERN[i]))
                ctypes.memmove(at, _PATTERN, SIZE)
        return out

    def close(self) -> None:
        """Unmap the arenas."""
        for at in self._arenas:
            _libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(SIZE))
        self._arenas.clear()


def leaked(state: State) -> bool:
    """Whether a canary's contents stand in a register of the guest."""
    mark = MARK.to_bytes(4, "little")
    return any(value >> 32 == MARK or value & 0xFFFFFFFF == MARK for value in state.gpr) \
        or mark in state.xsave
