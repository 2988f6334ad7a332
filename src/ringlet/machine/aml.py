"""An encoder for the part of AML that describes a PC (ACPI 6.4, chapter 20).

Each function returns the bytes of one term; terms nest as arguments, and `path` gives a name where
a value is wanted.  Resource descriptors (chapter 6.4) are in `ringlet.machine.aml_resources`.
"""

import struct
from collections.abc import Sequence
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
_METHOD_OP: Final = b"\x14"
_REGION_OP: Final = b"\x5b\x80"
_FIELD_OP: Final = b"\x5b\x81"
_ARG0_OP: Final = 0x68
_STORE_OP: Final = b"\x70"
_AND_OP: Final = b"\x7b"
_OR_OP: Final = b"\x7d"
_DWORD_FIELD_OP: Final = b"\x8a"
_IF_OP: Final = b"\xa0"
_ELSE_OP: Final = b"\xa1"
_RETURN_OP: Final = b"\xa4"

_NO_TARGET: Final = _ZERO_OP  # the result is the term's value alone
_SERIALIZED: Final = 1 << 3  # of a method's flags
_PCI_CONFIG: Final = 2  # a region's address space
_BYTE_ACCESS: Final = 1  # of a field's flags; its other bits 0: no lock, other bits are preserved


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


# --- methods (20.2.5)


def method(where: str, arguments: int, *terms: bytes, serialized: bool = False) -> bytes:
    """Return a method with up to 7 arguments; a serialized one may declare names."""
    flags = arguments | (_SERIALIZED if serialized else 0)
    return _METHOD_OP + _with_length(path(where) + bytes([flags]) + b"".join(terms))


def arg(number: int) -> bytes:
    """Return argument `number`, 0 to 6, of the method around it."""
    return bytes([_ARG0_OP + number])


def call(where: str, *arguments: bytes) -> bytes:
    """Return the value of a method."""
    return path(where) + b"".join(arguments)


def store(value: bytes, target: bytes) -> bytes:
    """Return a term that writes `value` to `target`."""
    return _STORE_OP + value + target


def both(one: bytes, two: bytes) -> bytes:
    """Return the bits that two numbers have in common."""
    return _AND_OP + one + two + _NO_TARGET


def set_bits(bits: bytes, target: bytes) -> bytes:
    """Return a term that sets bits of `target`."""
    return _OR_OP + target + bits + target


def if_(condition: bytes, *terms: bytes) -> bytes:
    """Return a term that does `terms` if `condition` is not 0."""
    return _IF_OP + _with_length(condition + b"".join(terms))


def else_(*terms: bytes) -> bytes:
    """Return what follows `if_` and does `terms` otherwise."""
    return _ELSE_OP + _with_length(b"".join(terms))


def return_(value: bytes) -> bytes:
    """Return a term that ends a method with `value`."""
    return _RETURN_OP + value


def config_bytes(region: str, first: int, names: Sequence[str]) -> bytes:
    """Return fields of a byte each, from register `first` on, of the PCI function around them."""
    where = bytes([_PCI_CONFIG]) + integer(first) + integer(len(names))
    fields = b"".join(path(name) + bytes([8]) for name in names)
    return (
        _REGION_OP + path(region) + where
        + _FIELD_OP + _with_length(path(region) + bytes([_BYTE_ACCESS]) + fields)
    )  # fmt: skip


def dword_field(source: bytes, offset: int, where: str) -> bytes:
    """Return a term that gives 32 bits at byte `offset` of a buffer the name `where`."""
    return _DWORD_FIELD_OP + source + integer(offset) + path(where)


# --- inside


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
