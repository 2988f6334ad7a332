"""The arithmetic flags that are live at a point in a program.

An engine may leave a flag stale if straight-line code overwrites it before anything reads it.  At a
fault there, only the live flags can be compared.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits

_BITS = ((RflagsBits.CF, 0x1), (RflagsBits.PF, 0x4), (RflagsBits.AF, 0x10), (RflagsBits.ZF, 0x40),
         (RflagsBits.SF, 0x80), (RflagsBits.OF, 0x800))
ARITHMETIC = 0x8D5
_SHIFTS = frozenset((Mnemonic.SHL, Mnemonic.SAL, Mnemonic.SHR, Mnemonic.SAR, Mnemonic.ROL,
                     Mnemonic.ROR, Mnemonic.RCL, Mnemonic.RCR, Mnemonic.SHLD, Mnemonic.SHRD))
_LOGICAL = frozenset((Mnemonic.AND, Mnemonic.OR, Mnemonic.XOR, Mnemonic.TEST))


def flag_bits(iced: int) -> int:
    """iced-x86's RflagsBits as RFLAGS bits, arithmetic ones only."""
    out = 0
    for theirs, ours in _BITS:
        if iced & theirs:
            out |= ours
    return out


def surely_overwritten(ins: Instruction) -> int:
    """Flags that every execution of `ins` overwrites; one left undefined may keep its value.

    A shift by CL may be by zero, and a REP string may run no iteration: those keep all flags.
    """
    if ins.is_string_instruction and (ins.has_rep_prefix or ins.has_repne_prefix):
        return 0
    if ins.mnemonic in _SHIFTS:
        last = ins.op_count - 1
        if ins.op_kind(last) == OpKind.REGISTER and ins.op_register(last) == Register.CL:
            return 0
        if ins.op_kind(last) == OpKind.IMMEDIATE8 and ins.immediate8 & 0x1F == 0:
            return 0
    undefined = flag_bits(ins.rflags_undefined)
    if ins.mnemonic in _LOGICAL:
        undefined = 0  # AF, which every processor clears
    return flag_bits(ins.rflags_modified) & ~undefined


def live_in(line: Sequence[Instruction]) -> int:
    """Flags live before the first of these instructions, which run one after the other."""
    decided = live = 0
    for ins in line:
        live |= flag_bits(ins.rflags_read) & ~decided
        if ins.flow_control != FlowControl.NEXT and not ins.is_invalid:
            break
        decided |= surely_overwritten(ins) | flag_bits(ins.rflags_read)
    return live | (ARITHMETIC & ~decided)


@lru_cache(maxsize=4096)
def _decoded(code: bytes, origin: int, bits: int) -> tuple[Instruction, ...]:
    return tuple(Decoder(bits, code, ip=origin))


def flags_live_at(code: bytes, origin: int, linear: int, bits: int = 64) -> int:
    """Arithmetic flags live before the instruction at `linear` of the code at `origin`.

    ARITHMETIC where it is unknown.
    """
    if not origin <= linear < origin + len(code):
        return ARITHMETIC
    return live_in(_decoded(code[linear - origin:], linear, bits))
