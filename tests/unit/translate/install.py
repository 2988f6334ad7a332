"""Installs a translation as the code cache would, and walks real text."""

from collections.abc import Iterator
from pathlib import Path

from ringlet.translate.translator import (
    BLOCK,
    JUMP_TABLE,
    SLOTS,
    SOURCE,
    Relocation,
    Stub,
    Translation,
    Translator,
    predicted_at,
)

PAGE = 4096
AT = 0x10000000
STUBS = {Stub.LINK: 0x1000, Stub.INDIRECT: 0x2000, Stub.OP: 0x3000, Stub.STALE: 0x4000}
OP_INFO = 0x20000000
OP_INFO_BYTES = 0x40
WIDE = (Relocation.RIP64, Relocation.NRIP64, Relocation.SOURCE, Relocation.FIELD64)


def installed(t: Translation, linear: int, block: int = BLOCK) -> bytes:
    """Return the fragment at `linear` as installed at host address `AT`, with all relocations."""
    code = bytearray(t.code)
    for at, kind, value in t.relocations:
        address = (linear + value) & (1 << 64) - 1
        size = 4
        match kind:
            case Relocation.STATE:
                field = block + value
            case Relocation.RIP32:
                field = address & 0xFFFFFFFF
            case Relocation.RIP64:
                field, size = address, 8
            case Relocation.NRIP64:
                field, size = -address & (1 << 64) - 1, 8
            case Relocation.NRIP32:
                field = -address & 0xFFFFFFFF
            case Relocation.PREDICTED:
                field = block + predicted_at(linear, value)
            case Relocation.TABLE:
                field = block + JUMP_TABLE
            case Relocation.SLOT:
                field = block + SLOTS[t.key & 3 == 3] + (address >> 36 & 0xFFFF) * 8
            case Relocation.STUB:
                field = STUBS[Stub(value)] - (AT + at + 4) & 0xFFFFFFFF
            case Relocation.SOURCE:
                field, size = SOURCE + value, 8
            case Relocation.FIELD:
                field = int.from_bytes(t.code[at : at + 4], "little")
            case Relocation.FIELD64:
                there = int.from_bytes(t.code[at : at + 8], "little")
                field, size = there + linear - t.linear & (1 << 64) - 1, 8
            case Relocation.OP:
                field = OP_INFO + value * OP_INFO_BYTES
            case _:
                field = value
        assert at + size <= len(code)
        code[at : at + size] = field.to_bytes(size, "little")
    return bytes(code)


def bare(t: Translation) -> bytes:
    """Return the code with 0 in every relocated field."""
    code = bytearray(t.code)
    for at, kind, _ in t.relocations:
        size = 8 if kind in WIDE else 4
        code[at : at + size] = bytes(size)
    return bytes(code)


def fragments(
    translator: Translator, text: bytes, linear: int, key: int, every: int
) -> Iterator[Translation]:
    """Yield the fragments of each `every`th page of `text`, one after another."""
    first = -linear % PAGE
    for page in range(first, len(text) - PAGE, PAGE * every):
        at = page
        while at < page + PAGE:
            made = _fragment(translator, text, at, page + PAGE, linear, key)
            yield made
            at += made.guest_bytes


def _fragment(
    translator: Translator, text: bytes, at: int, end: int, linear: int, key: int
) -> Translation:
    try:
        return translator.translate(text[at:end], linear=linear + at, key=key, indirect=True)
    except ValueError:
        # The instruction continues in the next page.
        rest = text[at : at + 16]
        return translator.translate(rest, linear=linear + at, key=key, limit=1, indirect=True)


def libc() -> Path:
    """Return the C library of this process."""
    maps = Path("/proc/self/maps").read_text()
    return Path(next(word for word in maps.split() if "/libc.so" in word or "/libc-" in word))
