"""MOVS, STOS, LODS, SCAS and CMPS, one repetition at a time (SDM 1 7.3.9, 2B REP)."""

from typing import Final

from iced_x86 import Instruction, Mnemonic, OpKind

from ringlet.arch.vendors import Conduct
from ringlet.vcpu.emulation.access import Accesses, read, write
from ringlet.vcpu.emulation.native import FAULT, FIRST, SECOND, Native
from ringlet.vcpu.emulation.operand import Operand
from ringlet.vcpu.emulation.operands import (
    RAX,
    RCX,
    RDI,
    RSI,
    info_of,
    low_bytes,
    number,
    on_pointers,
    operand_of,
)

_ZF: Final = 1 << 6
_TF: Final = 1 << 8
_DF: Final = 1 << 10

BATCH: Final = 64
"""Number of repetitions between two checks for waiting events."""

_MOVS: Final = frozenset({Mnemonic.MOVSB, Mnemonic.MOVSW, Mnemonic.MOVSD, Mnemonic.MOVSQ})
_STOS: Final = frozenset({Mnemonic.STOSB, Mnemonic.STOSW, Mnemonic.STOSD, Mnemonic.STOSQ})
_LODS: Final = frozenset({Mnemonic.LODSB, Mnemonic.LODSW, Mnemonic.LODSD, Mnemonic.LODSQ})
_COMPARES: Final = frozenset(
    {
        Mnemonic.SCASB, Mnemonic.SCASW, Mnemonic.SCASD, Mnemonic.SCASQ,
        Mnemonic.CMPSB, Mnemonic.CMPSW, Mnemonic.CMPSD, Mnemonic.CMPSQ,
    }
)  # fmt: skip
_ADDRESS_SIZES: Final = {
    OpKind.MEMORY_SEG_SI: 2,
    OpKind.MEMORY_ESDI: 2,
    OpKind.MEMORY_SEG_ESI: 4,
    OpKind.MEMORY_ESEDI: 4,
    OpKind.MEMORY_SEG_RSI: 8,
    OpKind.MEMORY_ESRDI: 8,
}


class String:
    """A string instruction, with or without REP.

    Each repetition is complete in itself.  Between two of them RIP points to the instruction, so
    interrupts and faults see the registers as the manual specifies.
    """

    __slots__ = (
        "_address_size", "_entry", "_length", "_mnemonic", "_repeat", "_size", "_source",
        "_target", "_target_first", "_until",
    )  # fmt: skip

    def __init__(self, native: Native, instruction: Instruction) -> None:
        single = instruction.copy()
        single.has_rep_prefix = False
        single.has_repne_prefix = False
        self._mnemonic = instruction.mnemonic
        self._length = instruction.len
        self._repeat = instruction.has_rep_prefix or instruction.has_repne_prefix
        # The value of ZF that ends REPE or REPNE; only comparisons use it.
        self._until = _ZF if instruction.has_repne_prefix else 0
        kinds = [instruction.op_kind(i) for i in range(instruction.op_count)]
        # If both operands fault, the first is reported.  It is [rDI], except in REPE CMPSB on some
        # processors.
        self._target_first = self._mnemonic in _COMPARES and (
            self._mnemonic != Mnemonic.CMPSB
            or not instruction.has_rep_prefix
            or bool(native.conduct & Conduct.REPE_CMPSB_TARGET_FIRST)
        )
        self._address_size = next(_ADDRESS_SIZES[kind] for kind in kinds if kind in _ADDRESS_SIZES)
        self._source: Operand | None = None
        self._target: Operand | None = None
        self._size = 0
        for memory in info_of(single).used_memory():
            operand = operand_of(single, memory)
            if number(memory.base) == RDI:
                self._target = operand
            else:
                self._source = operand
            self._size = operand.size
        self._entry = 0
        if self._mnemonic in _COMPARES:
            self._entry = native.place(on_pointers(single))

    def run(self, native: Native) -> Accesses:
        mask = low_bytes(self._address_size)
        start = native.rip
        if self._repeat and native.conduct & Conduct.REP_NARROWS_FIRST:
            self._narrow(native)
        for _ in range(BATCH):
            if self._repeat and native.gpr(RCX) & mask == 0:
                native.skip(self._length)
                return True
            if not (yield from self._once(native, mask)):
                return False
            if native.rip != start or native.wanted or native.rflags & _TF:
                return True
            if self._target is not None and self._target.writes and not self._target.units():
                # A store to RAM may have changed the instruction itself, so dispatch it again.
                return True
        return True

    def _narrow(self, native: Native) -> None:
        """Clear the upper halves that `Conduct.REP_NARROWS_FIRST` names, with 32-bit addresses."""
        changed = [RCX]
        if self._mnemonic in _MOVS | _STOS:
            changed += [RSI] * (self._source is not None) + [RDI]
        for register in changed:
            native.set_gpr(register, native.gpr(register), self._address_size)

    def _once(self, native: Native, mask: int) -> Accesses:
        source, target = self._source, self._target
        start, flags = native.rip, native.rflags
        for operand in (target, source) if self._target_first else (source, target):
            if operand is not None and native.resolve(operand) == FAULT:
                return False
        if source is not None:
            yield from read(native, source, FIRST)
        if target is not None and target.reads:
            yield from read(native, target, SECOND)
        if self._entry:
            bounce = native.bounce
            if not native.execute(self._entry, RSI, bounce + FIRST, RDI, bounce + SECOND):
                return False
            native.commit_flags()
        elif self._mnemonic in _LODS:
            native.set_gpr(RAX, native.peek(FIRST, self._size), self._size)
        elif self._mnemonic in _STOS:
            native.poke(FIRST, native.gpr(RAX), self._size)
        self._advance(native, mask)
        if (
            native.rip == start
            and self._mnemonic in _COMPARES
            and native.conduct & Conduct.FLAGS_WITH_LAST_COMPARISON
        ):
            native.set_flags(flags)
        if target is not None and target.writes:
            yield from write(native, target, FIRST)
        return True

    def _advance(self, native: Native, mask: int) -> None:
        """Step the registers, and RIP after the last repetition."""
        flags = native.rflags
        step = -self._size if flags & _DF else self._size
        width = self._address_size
        if self._source is not None:
            native.set_gpr(RSI, native.gpr(RSI) + step & mask, width)
        if self._target is not None:
            native.set_gpr(RDI, native.gpr(RDI) + step & mask, width)
        if self._repeat:
            count = native.gpr(RCX) - 1 & mask
            native.set_gpr(RCX, count, width)
            compared = self._mnemonic in _COMPARES and flags & _ZF == self._until
            if count and not compared:
                return
        native.skip(self._length)


def is_string(instruction: Instruction) -> bool:
    """Whether `String` performs the instruction."""
    return instruction.mnemonic in _MOVS | _STOS | _LODS | _COMPARES and (
        instruction.is_string_instruction
    )
