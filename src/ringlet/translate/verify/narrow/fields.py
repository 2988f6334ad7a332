"""The fields of the state block that 16- and 32-bit code may access, and by which forms: rule 5."""

from typing import Final

from iced_x86 import Code, Instruction, Register_

from ringlet.core import state
from ringlet.translate.translator import KEYS
from ringlet.translate.verify.narrow.values import (
    GUEST,
    OTHER,
    WHOLE_WINDOW,
    Facts,
    Kind,
    UnsoundError,
    Value,
)

FIELDS: Final = state.offsets()
_CS: Final = 1
_LOADED: Final = (0, 1, 3, 4, 5)
"""ES, CS, DS, FS and GS: what translated code loads in real and virtual-8086 mode."""
_SCRATCH: Final = {FIELDS["scratch"] + 8 * n: n for n in range(2)}
_OLD: Final = {FIELDS["string_old"] + 8 * n: n for n in range(2)}
_SEGMENTS: Final = {
    FIELDS[name] + 8 * number: Value(kind, number, writes)
    for name, kind, writes in (
        ("segment_at", Kind.SEGMENT, False),
        ("segment_read", Kind.SIZE, False),
        ("segment_write", Kind.SIZE, True),
    )
    for number in range(6)
} | {FIELDS["segment_host"] + 8 * number: Value(Kind.REGION) for number in range(6)}
_PARAGRAPHS: Final = {
    FIELDS["paragraph_at"] + 8 * number: Value(Kind.PARAGRAPH, number, number != _CS)
    for number in range(6)
}
_PUBLIC: Final = frozenset(
    {FIELDS["fs_base"], FIELDS["gs_base"], FIELDS["intr"], FIELDS["string_step"]}
)
"""Fields of 32 bits that the guest may know."""
_SEGMENT: Final = FIELDS["gs_base"] - FIELDS["fs_base"]
_SELECTORS: Final = tuple(FIELDS["selectors"] + number * _SEGMENT for number in range(6))
_LOADED_SELECTORS: Final = frozenset(_SELECTORS[number] for number in _LOADED)
_LOADED_BASES: Final = frozenset(FIELDS["fs_base"] + (n - 4) * _SEGMENT for n in _LOADED)
_LOADED_AT: Final = frozenset(FIELDS["paragraph_at"] + 8 * number for number in _LOADED)
_REMEMBERED: Final = tuple(FIELDS["remembered"] + 48 * number for number in range(4))
"""What a load gives FS, twice, and GS: a segment, its `segment_host`, and what describes it."""
_HELD: Final = _SEGMENT + 8
_RECALLED: Final = {
    at + piece: to
    for number, at in enumerate(_REMEMBERED)
    for piece, to in (
        *((piece, _SELECTORS[4 + number // 2] + piece) for piece in range(0, _SEGMENT, 8)),
        (_SEGMENT, FIELDS["segment_host"] + 8 * (4 + number // 2)),
    )
}
"""The fields of which each piece of what is remembered may be copied to one alone."""
_CHECKED: Final = KEYS["segmented"] | KEYS["limited"]
_INTERRUPTS: Final = frozenset({0, 0x200})
_KERNEL: Final = frozenset(
    {FIELDS["rflags"], FIELDS["iflag"], FIELDS["nmi_blocked"]}
    | {FIELDS["cr2"]}
    | {FIELDS["held"] + 4 * number for number in range(4 * 6)}
    | {at + _HELD + 4 * number for at in _REMEMBERED for number in range(4)}
)
"""Fields of 32 bits that the guest may know at CPL 0."""
_MASKS: Final = frozenset({FIELDS["kept_flags"], FIELDS["interrupt_flag"], FIELDS["overflow_flag"]})
_VECTORS: Final = 1024
"""Bytes of real mode's interrupt table."""
_CONSTANTS: Final = {
    FIELDS["string_step"]: frozenset({1, 0xFFFFFFFF}),
    FIELDS["string_rest"]: frozenset({0}),
}
_ANY: Final = frozenset({FIELDS["ea"], FIELDS["string_rest"]})
"""Fields for any 32-bit value of the guest."""
_CPL: Final = KEYS["cpl"]


def load_field(s: Facts, register: Register_, offset: int, key: int) -> None:
    """Carry out a 64-bit load of a field."""
    if offset in _SEGMENTS:
        s.set(register, _SEGMENTS[offset])
    elif offset in _PARAGRAPHS and key & KEYS["data64k"]:
        s.set(register, _PARAGRAPHS[offset])
    elif offset in _SCRATCH:
        s.set(register, s.scratch[_SCRATCH[offset]])
    elif offset in _OLD:
        s.set(register, s.old[_OLD[offset]])
    elif offset == FIELDS["vectors_at"] and key & KEYS["paragraphs"] and not key & _CPL:
        s.set(register, Value(Kind.HOST, size=_VECTORS))
    elif offset in _RECALLED and not key & (_CPL | _CHECKED):
        s.set(register, Value(Kind.RECALLED, size=_RECALLED[offset]))
    elif offset == FIELDS["string_rest"]:
        s.set(register, GUEST)
    elif offset == FIELDS["tsc_offset"] and not key & _CPL:
        s.set(register, OTHER)
    else:
        raise UnsoundError("it reads a field of the state that it may not")


def store_field(s: Facts, value: Value, offset: int, key: int) -> None:
    """Carry out a 64-bit store of a register to a field."""
    loads = key & KEYS["paragraphs"]
    if offset in _SCRATCH:
        s.scratch[_SCRATCH[offset]] = value
    elif offset in _OLD and value.is_guest:
        s.old[_OLD[offset]] = GUEST
    elif value != Value(Kind.RECALLED, size=offset) and not (
        (loads and offset in _LOADED_AT and value == Value(Kind.HOST, origin=WHOLE_WINDOW))
        or (value.is_guest and (offset in _ANY or (loads and _is_loaded(offset, key))))
    ):
        raise UnsoundError("it writes a field of the state that it may not")


def _is_loaded(offset: int, key: int) -> bool:
    """Whether real and virtual-8086 mode give the field 32 bits of the guest."""
    return offset in _LOADED_BASES or (offset == FIELDS["rflags"] and not key & _CPL)


def set_interrupts(i: Instruction, offset: int | None, key: int) -> bool:
    """Whether a 64-bit store of a constant is one to IF, which it must leave 0 or 200h."""
    if offset != FIELDS["iflag"] or key & _CPL:
        return False
    if i.immediate32to64 not in _INTERRUPTS:
        raise UnsoundError("it sets more than IF")
    return True


def is_open(i: Instruction, offset: int | None, key: int) -> bool:
    """Whether the guest may see or change the field by an instruction such as this one.

    It reads a base, a selector, the direction of strings, or whether an interrupt waits; at CPL 0
    it reads flags, or what a segment holds; or it loads a selector, sets the direction, or ends a
    repetition.
    """
    if i.code == Code.VEX_PEXT_R32_R32_RM32:
        return offset in _MASKS
    if i.code == Code.MOV_RM32_IMM32:
        return offset in _CONSTANTS and i.immediate32 in _CONSTANTS[offset]
    if i.code == Code.MOV_R32_RM32:
        return offset in _PUBLIC or (offset in _KERNEL and not key & _CPL)
    if i.code == Code.MOVZX_R32_RM16:
        return offset in _SELECTORS
    loads = key & KEYS["paragraphs"] != 0
    return i.code == Code.MOV_RM16_R16 and loads and offset in _LOADED_SELECTORS
