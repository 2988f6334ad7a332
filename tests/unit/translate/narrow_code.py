"""Host code of one guest instruction, for tests of the verifier of 16- and 32-bit code."""

from __future__ import annotations

from iced_x86 import Decoder

from ringlet.core import state
from ringlet.translate.translator import (
    BLOCK,
    JUMP_TABLE,
    KEYS,
    Relocation,
    Translation,
    Translator,
)
from ringlet.translate.verify import verify_narrow

FLAT = KEYS["mode32"]
SEGMENTED = FLAT | KEYS["segmented"]
BASED = FLAT | KEYS["cs64k"] | KEYS["cs_odd"]
FIELDS = state.offsets()
TRANSLATOR = Translator()


def translate(
    code: str, key: int = FLAT, indirect: bool = False, checked: bool = False
) -> Translation:
    """Return the translation of `code` and HLT."""
    return TRANSLATOR.translate(
        bytes.fromhex(code) + b"\xf4", key=key, indirect=indirect, checked=checked
    )


def reasons(translation: Translation) -> list[str]:
    """Return why the verifier refuses the translation."""
    return [violation.reason for violation in verify_narrow(translation)]


def changed(translation: Translation, old: str, new: str) -> Translation:
    """Return `translation` with the only occurrence of `old` replaced by as many bytes."""
    assert translation.code.count(bytes.fromhex(old)) == 1
    assert len(bytes.fromhex(old)) == len(bytes.fromhex(new))
    code = translation.code.replace(bytes.fromhex(old), bytes.fromhex(new))
    return translation._replace(code=code)


def at(name: str, number: int = 0) -> str:
    """Return the address of a field of the state as bytes of code."""
    return (BLOCK + FIELDS[name] + 8 * number).to_bytes(4, "little").hex()


def host(
    code: str, key: int = FLAT, more: tuple[tuple[int, int, int], ...] = (), ends: bool = False
) -> Translation:
    """Return a translation whose body is `code` and, unless it `ends`, a link.

    Constant addresses have relocations; `more` are the others.
    """
    body = bytes.fromhex(code)
    links = () if ends else ((len(body) + 1, 0x100001),)
    whole = body if ends else body + bytes.fromhex("e900000000")
    relocations = list(more)
    decoder = Decoder(64, body)
    for i in decoder:
        where = decoder.get_constant_offsets(i)
        if where.displacement_size == 4 and not i.memory_base and not i.memory_index:
            offset = i.memory_displacement - BLOCK
            relocations.append((i.ip32 + where.displacement_offset, Relocation.STATE, offset))
    return translate("90", key)._replace(
        code=whole, map=((0, 0), (0, 0)), links=links, relocations=tuple(relocations),
        operations=((0, 1),), cold=len(whole), body=0, resumes=(), guest_bytes=1,
    )  # fmt: skip


LIMIT = "4c8b0425" + at("segment_write", 3)  # mov r8, [segment_write of DS]
READ_LIMIT = "4c8b0425" + at("segment_read", 3)
SUM = "4f8d440803"  # lea r8, [r8 + r9 + 3]
SHIFTS = "c442a3f7c0 c442a1f7c0"  # shrx r8, r8, r11; shlx r8, r8, r11
ADD = "4f8d0c01"  # lea r9, [r9 + r8]
BASE = "4c8b0425" + at("segment_at", 3)
OFFSET = "4189d9"  # mov r9d, ebx
CHECK = OFFSET + LIMIT + SUM + SHIFTS + ADD + BASE  # 4 bytes of DS at EBX, for writes
READ_CHECK = OFFSET + READ_LIMIT + SUM + SHIFTS + ADD + BASE
TO_RDI = "4989f9" + "4b8d3c08" + "4989f9"  # mov r9, rdi; (lea rdi, [r8 + r9]; mov r9, rdi)
NEGATIVE = "4d89d1 49f7d1 4d8d4901"  # r9 := -r10
SAVE_SI = "4c890c25" + at("scratch")
SAVE_DI = "4c890c25" + at("scratch", 1)
FLAT_DI = NEGATIVE + SAVE_DI + "4a8d3c17"  # lea rdi, [rdi + r10]
BACK_DI = "4c8b0c25" + at("scratch", 1) + "428d3c0f"  # lea edi, [rdi + r9]
# The host address of 4 bytes of DS at EDI in RDI, and what takes it back in `scratch`.
CHECKED_DI = (
    "4189f9" + LIMIT + SUM + SHIFTS + ADD + BASE + "4989fb 4b8d3c08 4989f9 49f7d1 4f8d4c1901"
    + SAVE_DI
)  # fmt: skip
RESTORE = "41bb3f000000"  # mov r11d, 63
OPERATION = "48c70425" + at("op_info") + "00000000"
JUMP = "450fb7c8 42ff24cd" + (BLOCK + JUMP_TABLE).to_bytes(4, "little").hex()
TABLE = Relocation.TABLE
STUB = Relocation.STUB
