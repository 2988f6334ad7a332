"""Finds the symbols of a guest's Linux kernel in its memory, wherever the kernel put itself.

The kernel carries its symbols for its own messages, compressed (`kallsyms`): scripts/kallsyms.c of
its source writes the tables, kernel/kallsyms.c reads them.

    num_syms        u32
    names           for each symbol its length and as many tokens: numbers of texts in token_table;
                    the first character of a name is the symbol's type
    markers         u32 for every 256th symbol: its place in `names`
    token_table     256 texts with a final zero
    token_index     u16 for each token: its place in token_table
    offsets         i32 for each symbol; at or above 0 it is the value itself, of a per-CPU
                    variable; below, the value is relative_base - 1 - offset
    relative_base   u64, which the kernel has relocated to its random base

Each begins at a multiple of 8.  Before Linux 6.4, offsets and relative_base come before num_syms.
All of it is the guest's and may be anything: each step checks what it reads, and the first table
that is whole is used.
"""

import struct
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final, NamedTuple

from ringlet.errors import ConfigError

IMAGE_FROM: Final = 0xFFFF_FFFF_8000_0000
"""The least linear address of Linux's own text (Documentation/arch/x86/x86_64/mm.rst)."""

IMAGE_TO: Final = 0xFFFF_FFFF_C000_0000
"""Its end; modules come after it."""

LARGEST_IMAGE: Final = 256 << 20
MOST_SYMBOLS: Final = 1 << 20

_STEP: Final = 2 << 20  # the kernel's base is a multiple of this
_PAGE: Final = 4096
_TOKENS: Final = 256
_DIGITS: Final = b"".join(b"%d\0" % digit for digit in range(10))
_FIRST_DIGIT: Final = ord("0")
_LONGEST_TABLE: Final = 1 << 14
_BLOCK: Final = 256
_LONG_NAME: Final = 0x80
_CANDIDATES: Final = 1000
_LONGEST_NAME: Final = 512
"""The most characters of a name, and so of its tokens: KSYM_NAME_LEN."""
_ALL_NAMES: Final = 64 << 20
"""The most characters of all of them; those of Debian's kernel have 4 MiB."""


class KernelImage(NamedTuple):
    """The kernel's memory: its bytes, zeros where nothing is mapped, and its linear address."""

    data: bytes
    base: int


def kernel_image(read_linear: Callable[[int, int], bytes]) -> KernelImage | None:
    """Return the memory of the Linux kernel that runs, or None if none does.

    `read_linear` raises ValueError for what is not mapped.
    """
    base = next((at for at in range(IMAGE_FROM, IMAGE_TO, _STEP) if _mapped(read_linear, at)), 0)
    if not base:
        return None
    data = bytearray()
    end = min(IMAGE_TO, base + LARGEST_IMAGE)
    for at in range(base, end, _STEP):
        if not _mapped(read_linear, at) and not _mapped(read_linear, at + _STEP - _PAGE):
            break
        try:
            data += read_linear(at, _STEP)
        except ValueError:
            for page in range(at, at + _STEP, _PAGE):
                data += read_linear(page, _PAGE) if _mapped(read_linear, page) else bytes(_PAGE)
    return KernelImage(bytes(data), base)


def symbols_of(data: bytes, base: int) -> dict[str, int]:
    """Return the linear address of each symbol in a kernel's memory, by name.

    Of several symbols of a name, the first in the table counts.  Raises ConfigError.
    """
    for table, index in _token_tables(data):
        found = _symbols(data, base, table, index)
        if found is not None:
            return found
    raise ConfigError("the guest's kernel has no table of symbols that can be read (kallsyms)")


def _mapped(read_linear: Callable[[int, int], bytes], at: int) -> bool:
    try:
        read_linear(at, 8)
    except ValueError:
        return False
    return True


def _up(offset: int) -> int:
    return (offset + 7) & ~7


def _token_tables(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the places of token tables and of their indices, which must agree."""
    at = data.find(_DIGITS)
    for _ in range(_CANDIDATES):  # the guest's memory may have nothing but digits
        if at < 0:
            return
        start = _back(data, at)
        if start is not None:
            texts = data[start : start + _LONGEST_TABLE].split(b"\0")[:_TOKENS]
            places = [0, *accumulate(len(text) + 1 for text in texts)]
            index = _up(start + places.pop())
            wanted = struct.pack(f"<{len(places)}H", *places)
            if len(texts) == _TOKENS and data[index : index + len(wanted)] == wanted:
                yield start, index
        at = data.find(_DIGITS, at + 1)


def _back(data: bytes, at: int) -> int | None:
    """Return the start of the token table in which the digits are at `at`."""
    start = at
    for _ in range(_FIRST_DIGIT):
        start = data.rfind(b"\0", max(0, start - 1 - _BLOCK), start - 1) + 1
        if start == 0:
            return None
    return start if start % 8 == 0 else None


def _symbols(data: bytes, base: int, table: int, index: int) -> dict[str, int] | None:
    markers_at, markers = _markers(data, table)
    start, count = _names(data, markers_at, markers)
    if not count:
        return None
    after = _up(index + 2 * _TOKENS)
    before = start - 16  # num_syms is between relative_base and the names
    for offsets, relative in (
        (after, _up(after + 4 * count)),
        (before - _up(4 * count), before),
    ):
        if offsets < 0 or max(relative + 8, offsets + 4 * count) > len(data):
            continue
        (relative_base,) = struct.unpack_from("<Q", data, relative)
        if base <= relative_base < base + len(data):
            values = struct.unpack_from(f"<{count}i", data, offsets)
            tokens = data[table:index].split(b"\0")[:_TOKENS]
            names = _texts(data, start, count, tokens)
            found: dict[str, int] = {}
            for name, value in zip(names, values, strict=True):
                found.setdefault(name, value if value >= 0 else relative_base - 1 - value)
            return found
    return None


def _markers(data: bytes, end: int) -> tuple[int, list[int]]:
    """Return the markers that end at `end`, and their place; they increase from 0."""
    found: list[int] = []
    for at in range(end - 4, max(-1, end - 4 * (MOST_SYMBOLS // _BLOCK)), -4):
        (value,) = struct.unpack_from("<I", data, at)
        if not found and value == 0 and at == end - 4:
            continue  # a filler up to a multiple of 8
        if found and value >= found[-1]:
            break
        found.append(value)
        if value == 0:
            return at, found[::-1]
    return end, []


def _names(data: bytes, end: int, markers: list[int]) -> tuple[int, int]:
    """Return the place and the number of the names that end at `end`; 0 of them if none fit."""
    if len(markers) < 2:
        return 0, 0
    latest = (end - markers[-1]) // 8 * 8
    for start in range(latest, max(16, latest - _BLOCK * (_LONG_NAME << 3)), -8):
        (count,) = struct.unpack_from("<Q", data, start - 8)
        if -(-count // _BLOCK) == len(markers) and _block_ends(data, start, end) == markers[1]:
            return start, count
    return 0, 0


def _block_ends(data: bytes, start: int, end: int) -> int:
    """Return the size of the first block of names at `start`."""
    at = start
    for _ in range(_BLOCK):
        if at + 1 >= end:
            return -1
        at += sum(_length(data, at))
    return at - start


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Return the bytes of a name's length, and the length: the number of its tokens."""
    low = data[at]
    return (2, low & 0x7F | data[at + 1] << 7) if low & _LONG_NAME else (1, low)


def _texts(data: bytes, start: int, count: int, tokens: list[bytes]) -> Iterator[str]:
    """Yield the names without their types.  Past the end of the memory, names are empty."""
    at, room = start, _ALL_NAMES
    for _ in range(count):
        if at + 2 > len(data):
            yield ""
            continue
        header, length = _length(data, at)
        if length > _LONGEST_NAME:
            raise ConfigError("the guest's kernel has a symbol with a name that is too long")
        at += header
        name = b"".join(map(tokens.__getitem__, data[at : at + length]))
        room -= len(name)
        if len(name) > _LONGEST_NAME or room < 0:
            raise ConfigError("the guest's kernel has symbols with names that are too long")
        at += length
        yield name[1:].decode("ascii", "replace")
