"""An encoder for the part of AML that describes a fixed machine (ACPI 6.4, chapter 20).

Each function returns the bytes of one term; terms nest as arguments.  Resource descriptors
(chapter 6.4) are here as well, for `resources`.
"""

import struct
from typing import Final

_ZERO_OP: Final = b"\x00"
_ONE_OP: Final = b"\x01"
_NAME_OP: Final = b"\x08"
_BYTE_PREFIX: Final = b"\x0a"
_WORD_PREFIX: Final = b"\x0b"
_DWORD_PREFIX: Final = b"\x0c"
_STRING_PREFIX: Final = b"\x0d"
_QWORD_PREFIX: Final = b"\x0e"
_SCOPE_OP: Final = b"\x10"
_BUFFER_OP: Final = b"\x11"
_PACKAGE_OP: Final = b"\x12"
_DUAL_NAME_PREFIX: Final = b"\x2e"
_MULTI_NAME_PREFIX: Final = b"\x2f"
_DEVICE_OP: Final = b"\x5b\x82"

# Address space descriptors: resource types and flags
_MEMORY: Final = 0
_IO: Final = 1
_BUS: Final = 2
_FIXED_RANGE: Final = 0x0C  # minimum and maximum are fixed; decodes positively; producer
_IO_ENTIRE_RANGE: Final = 0x03
_MEMORY_WRITABLE: Final = 0x01


def path(text: str) -> bytes:
    """Return a name: dot-separated segments of up to four letters, after a backslash or ^s."""
    rest = text.lstrip("\\^")
    prefix = text[: len(text) - len(rest)].encode("ascii")
    segments = [segment.ljust(4, "_").encode("ascii") for segment in rest.split(".") if segment]
    if any(len(segment) != 4 for segment in segments):
        raise ValueError(f"{text!r}: an AML name segment has at most four letters")
    match len(segments):
        case 0:
            return prefix + b"\x00"
        case 1:
            return prefix + segments[0]
        case 2:
            return prefix + _DUAL_NAME_PREFIX + b"".join(segments)
        case count:
            return prefix + _MULTI_NAME_PREFIX + bytes([count]) + b"".join(segments)


def integer(value: int) -> bytes:
    """Return a number of up to 64 bits in its shortest form."""
    if value < 2:
        return _ONE_OP if value else _ZERO_OP
    if value < 1 << 8:
        return _BYTE_PREFIX + struct.pack("<B", value)
    if value < 1 << 16:
        return _WORD_PREFIX + struct.pack("<H", value)
    if value < 1 << 32:
        return _DWORD_PREFIX + struct.pack("<I", value)
    return _QWORD_PREFIX + struct.pack("<Q", value)


def string(text: str) -> bytes:
    """Return an ASCII string."""
    return _STRING_PREFIX + text.encode("ascii") + b"\x00"


def eisa_id(text: str) -> bytes:
    """Return the number that an EISA ID such as PNP0A03 is compressed into (6.1.5)."""
    letters = 0
    for letter in text[:3]:
        letters = letters << 5 | ord(letter) - ord("@")
    # The number is stored with its most significant byte first.
    return integer(int.from_bytes(struct.pack(">HH", letters, int(text[3:], 16)), "little"))


def buffer(data: bytes) -> bytes:
    """Return a buffer that holds `data`."""
    return _BUFFER_OP + _with_length(integer(len(data)) + data)


def package(*elements: bytes) -> bytes:
    """Return a package of up to 255 elements."""
    return _PACKAGE_OP + _with_length(bytes([len(elements)]) + b"".join(elements))


def name(where: str, value: bytes) -> bytes:
    """Return a term that gives `value` the name `where`."""
    return _NAME_OP + path(where) + value


def scope(where: str, *terms: bytes) -> bytes:
    """Return a term that puts `terms` in the scope of the existing name `where`."""
    return _SCOPE_OP + _with_length(path(where) + b"".join(terms))


def device(where: str, *terms: bytes) -> bytes:
    """Return a device that contains `terms`."""
    return _DEVICE_OP + _with_length(path(where) + b"".join(terms))


def _with_length(body: bytes) -> bytes:
    """Return `body` after its PkgLength, which includes its own bytes (20.2.4)."""
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1]) + body
    for extra in (1, 2, 3):
        length = len(body) + 1 + extra
        if length < 1 << 4 + 8 * extra:
            return (
                bytes([extra << 6 | length & 0xF]) + (length >> 4).to_bytes(extra, "little") + body
            )
    raise ValueError("an AML term is too long")


# --- resource descriptors


def resources(*descriptors: bytes) -> bytes:
    """Return the buffer for a _CRS.  The checksum 0 in its end tag means that there is none."""
    return buffer(b"".join(descriptors) + b"\x79\x00")


def io_ports(base: int, count: int) -> bytes:
    """Return a descriptor of a device's ports, decoded in 16 bits."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, count)


def irq(number: int) -> bytes:
    """Return a descriptor of an edge-triggered, active-high ISA interrupt."""
    return struct.pack("<BH", 0x22, 1 << number)


def fixed_memory(base: int, size: int) -> bytes:
    """Return a descriptor of a device's readable and writable memory below 4 GiB."""
    return struct.pack("<BHBII", 0x86, 9, 1, base, size)


def bus_numbers(first: int, last: int) -> bytes:
    """Return a descriptor of the bus numbers that a bridge forwards."""
    return _word_range(_BUS, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    """Return a descriptor of the ports that a bridge forwards."""
    return _word_range(_IO, _IO_ENTIRE_RANGE, first, last)


def memory_window(first: int, last: int) -> bytes:
    """Return a descriptor of memory that a bridge forwards, below 4 GiB or anywhere."""
    length = last - first + 1
    head = (_MEMORY, _FIXED_RANGE, _MEMORY_WRITABLE, 0, first, last, 0, length)
    if last < 1 << 32:
        return struct.pack("<BHBBB5I", 0x87, 23, *head)
    return struct.pack("<BHBBB5Q", 0x8A, 43, *head)


def _word_range(kind: int, flags: int, first: int, last: int) -> bytes:
    length = last - first + 1
    # A window of all 65,536 ports does not fit in the descriptor, and is not needed.
    return struct.pack("<BHBBB5H", 0x88, 13, kind, _FIXED_RANGE, flags, 0, first, last, 0, length)
