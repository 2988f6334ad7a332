"""What the SDM says about descriptors, gates and transfers, as functions of their fields.

Each function returns the exception (vector, error code) that the processor raises first, or None.
It is written from the SDM's text and does not look at the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass

TS, NP, SS, GP = 10, 11, 12, 13

Fault = tuple[int, int | None] | None


@dataclass(frozen=True)
class Kind:
    """The access byte of a descriptor: type with S, DPL, present."""

    type: int
    """Bits 0-3: type; bit 4: S."""
    dpl: int
    present: bool

    @property
    def access(self) -> int:
        """Return the byte."""
        return self.type | self.dpl << 5 | self.present << 7

    @property
    def code(self) -> bool:
        """Whether it is a code segment."""
        return self.type & 0x18 == 0x18

    @property
    def data(self) -> bool:
        """Whether it is a data segment."""
        return self.type & 0x18 == 0x10

    @property
    def conforming(self) -> bool:
        """Whether it is a conforming code segment."""
        return self.code and self.type & 4 != 0

    @property
    def readable(self) -> bool:
        """Whether data, or a readable code segment."""
        return self.data or (self.code and self.type & 2 != 0)

    @property
    def writable(self) -> bool:
        """Whether a writable data segment."""
        return self.data and self.type & 2 != 0


def every_kind(types: range = range(32)) -> list[Kind]:
    """Return every access byte of these types."""
    return [Kind(t, dpl, p) for t in types for dpl in range(4) for p in (True, False)]


def data_load(kind: Kind, selector: int, cpl: int) -> Fault:
    """MOV to DS, ES, FS or GS (SDM 2B MOV): not null."""
    error, rpl = selector & ~3, selector & 3
    if not kind.readable:
        return GP, error
    if not kind.conforming and (rpl > kind.dpl or cpl > kind.dpl):
        return GP, error
    return None if kind.present else (NP, error)


def stack_load(kind: Kind, selector: int, cpl: int) -> Fault:
    """MOV to SS (SDM 2B MOV): not null."""
    error, rpl = selector & ~3, selector & 3
    if rpl != cpl or not kind.writable or kind.dpl != cpl:
        return GP, error
    return None if kind.present else (SS, error)


def direct_transfer(kind: Kind, selector: int, cpl: int) -> Fault:
    """JMP or CALL to a code segment (SDM 3A 5.8.1)."""
    error, rpl = selector & ~3, selector & 3
    if kind.conforming:
        if kind.dpl > cpl:
            return GP, error
    elif rpl > cpl or kind.dpl != cpl:
        return GP, error
    return None if kind.present else (NP, error)


def gate_use(kind: Kind, selector: int, cpl: int) -> Fault:
    """The gate of JMP or CALL itself (SDM 3A 5.8.4)."""
    error, rpl = selector & ~3, selector & 3
    if kind.dpl < cpl or kind.dpl < rpl:
        return GP, error
    return None if kind.present else (NP, error)


def gate_code(kind: Kind, selector: int, cpl: int, *, jump: bool) -> Fault:
    """The code segment that a call gate names."""
    error = selector & ~3
    if not kind.code or kind.dpl > cpl:
        return GP, error
    if jump and not kind.conforming and kind.dpl != cpl:
        return GP, error
    return None if kind.present else (NP, error)


def return_code(kind: Kind, selector: int, cpl: int) -> Fault:
    """CS of a far RET or IRET."""
    error, rpl = selector & ~3, selector & 3
    if not kind.code or rpl < cpl:
        return GP, error
    if kind.conforming and kind.dpl > rpl:
        return GP, error
    if not kind.conforming and kind.dpl != rpl:
        return GP, error
    return None if kind.present else (NP, error)


def inner_stack(kind: Kind, selector: int, cpl: int) -> Fault:
    """SS from a TSS, for a transfer to ring `cpl`."""
    error, rpl = selector & ~3, selector & 3
    if rpl != cpl or kind.dpl != cpl or not kind.writable:
        return TS, error
    return None if kind.present else (SS, error)


def handler_code(kind: Kind, selector: int, cpl: int, *, v86: bool = False) -> Fault:
    """The code segment that an interrupt or trap gate names; EXT is 0 here."""
    error = selector & ~3
    if not kind.code or kind.dpl > cpl:
        return GP, error
    if not kind.present:
        return NP, error
    if v86 and (kind.conforming or kind.dpl):
        return GP, error
    return None


def task_code(kind: Kind, selector: int) -> Fault:
    """CS of a new task (SDM 3A table 7-1)."""
    error, rpl = selector & ~3, selector & 3
    if not kind.code:
        return TS, error
    if kind.conforming and kind.dpl > rpl:
        return TS, error
    if not kind.conforming and kind.dpl != rpl:
        return TS, error
    return None if kind.present else (NP, error)


def task_stack(kind: Kind, selector: int, cpl: int) -> Fault:
    """SS of a new task."""
    error, rpl = selector & ~3, selector & 3
    if not kind.writable:
        return TS, error
    if not kind.present:
        return SS, error
    if kind.dpl != cpl or rpl != cpl:
        return TS, error
    return None


def task_data(kind: Kind, selector: int, cpl: int) -> Fault:
    """DS, ES, FS or GS of a new task: not null."""
    error, rpl = selector & ~3, selector & 3
    if not kind.readable:
        return TS, error
    if not kind.present:
        return NP, error
    if not kind.conforming and (kind.dpl < cpl or kind.dpl < rpl):
        return TS, error
    return None


def within(kind: Kind, limit: int, big: bool, offset: int, size: int, write: bool) -> bool:
    """Whether an access to a segment is allowed (SDM 3A 5.3, 5.5)."""
    if not (kind.writable if write else kind.readable):
        return False
    last = offset + size - 1
    if kind.data and kind.type & 4:
        return limit < offset and last <= (0xFFFFFFFF if big else 0xFFFF)
    return last <= limit
