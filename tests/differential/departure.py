"""The only deviation from the processor that translated code is allowed (docs/adr/0003).

For speed, translated code does not record which indirect branch led to a non-canonical address: the
#GP is reported at the target, as if the branch had been performed.  `--exact` raises it at the
branch, but a CALL has stored its return address by then.
"""
from __future__ import annotations

from dataclasses import replace
from enum import Enum

from iced_x86 import (
    FlowControl,
    Instruction,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)

from tests.differential import layout
from tests.differential.operands import gpr_number
from tests.differential.program import Outcome, Program, State, instruction_at

_GP = 13
_ALL64 = (1 << 64) - 1
_INDIRECT = (FlowControl.INDIRECT_BRANCH, FlowControl.INDIRECT_CALL, FlowControl.RETURN)
_RSP = 4
_WITH_BASE: frozenset[int] = frozenset({Register.FS, Register.GS})


class Departure(Enum):
    """The behaviour of an engine at an indirect branch to a non-canonical address."""

    NONE = "the processor's"
    STORED = "a CALL has stored its return address"
    AT_TARGET = "RIP is the target, and RSP has moved"


def as_departed(program: Program, native: Outcome, departure: Departure) -> Outcome | None:
    """Return the outcome of a deviating engine where the host's outcome is `native`.

    None if the host did not stop at an indirect branch to a non-canonical address.
    """
    state = native.state
    branch = instruction_at(program, native)
    if native.vector != _GP or branch is None or branch.flow_control not in _INDIRECT:
        return None
    target = _target(branch, native)
    if target is None or (target + (1 << 47)) & _ALL64 < 1 << 48:
        return None
    rsp, pages = state.gpr[_RSP], native.pages
    if branch.flow_control == FlowControl.RETURN:
        rsp += 8 + (branch.immediate(0) if branch.op_count else 0)
    elif branch.flow_control == FlowControl.INDIRECT_CALL:
        rsp -= 8
        written = _with_word(native, rsp, branch.next_ip)
        if written is None:
            return None
        pages = written
    if departure is not Departure.AT_TARGET:
        return replace(native, pages=pages)
    gpr = (*state.gpr[:_RSP], rsp & _ALL64, *state.gpr[_RSP + 1:])
    return replace(native, state=replace(state, rip=target, gpr=gpr), pages=pages)


def _target(branch: Instruction, native: Outcome) -> int | None:
    state = native.state
    if branch.flow_control == FlowControl.RETURN:
        return _word(native, state.gpr[_RSP])
    if branch.op_kind(0) == OpKind.REGISTER:
        return _register(state, branch.op_register(0))
    return _word(native, _address(branch, state))


def _address(branch: Instruction, state: State) -> int:
    """Return the linear address of the memory operand."""
    address = branch.memory_displacement
    narrow = branch.memory_displ_size == 4
    if not branch.is_ip_rel_memory_operand:
        base, index = branch.memory_base, branch.memory_index
        narrow |= 4 in (RegisterExt.size(base), RegisterExt.size(index))
        address += _register(state, base) + _register(state, index) * branch.memory_index_scale
    if narrow:
        address &= (1 << 32) - 1
    return address + _register(state, branch.memory_segment) & _ALL64


def has_base(segment: Register_) -> bool:
    """Whether a segment has a base in 64-bit mode: FS and GS do."""
    return segment in _WITH_BASE


def _register(state: State, register: Register_) -> int:
    """Return a register's value, or the base of a segment."""
    if has_base(register):
        return state.fs_base if register == Register.FS else state.gs_base
    number = gpr_number(register)
    return 0 if number is None else state.gpr[number] & (1 << 8 * RegisterExt.size(register)) - 1


def _page(native: Outcome, number: int) -> bytes:
    start = number * layout.PAGE
    return native.pages.get(number, layout.BASE_IMAGE[start:start + layout.PAGE])


def _word(native: Outcome, linear: int) -> int | None:
    """Return the eight bytes of memory at a linear address."""
    data = b""
    for at in range(linear, linear + 8):
        if layout.area_at(at) is None:
            return None
        page, offset = divmod(layout.image_offset(at), layout.PAGE)
        data += _page(native, page)[offset:offset + 1]
    return int.from_bytes(data, "little")


def _with_word(native: Outcome, linear: int, value: int) -> dict[int, bytes] | None:
    """Return the host's changed pages with eight more bytes written."""
    pages = dict(native.pages)
    for i, byte in enumerate(value.to_bytes(8, "little")):
        if layout.area_at(linear + i) is None:
            return None
        number, offset = divmod(layout.image_offset(linear + i), layout.PAGE)
        page = bytearray(_page(replace(native, pages=pages), number))
        page[offset] = byte
        pages[number] = bytes(page)
    return pages
