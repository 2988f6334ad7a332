"""Comparison of two outcomes of one program, and the reasons why some are not comparable.

The x87's FOP, FIP and FDP are not compared, neither in the final state nor in what instructions
store (programs clear them there).  AMD's FXSAVE and XSAVE, which transfer the state, do not store
them unless an unmasked exception is pending; the virtual processor's do.
"""
from __future__ import annotations

from dataclasses import replace
from functools import cache

from iced_x86 import Decoder, Instruction, MemorySizeExt, Mnemonic, OpKind, Register, RegisterExt

from ringlet.vcpu.system.cpuid import host_cpuid
from tests.differential import layout, xsave
from tests.differential.departure import Departure, as_departed, has_base
from tests.differential.liveness import ARITHMETIC, flags_live_at
from tests.differential.native import FRAME_PAGE, TASK_SIZE_MAX
from tests.differential.operands import gpr_number
from tests.differential.program import (
    REGISTERS,
    SEGMENTS,
    SYSCALL_VECTOR,
    Outcome,
    Program,
    State,
    Status,
    code_at_the_end,
    instruction_at,
)

_DB, _BP, _SS, _GP, _PF, _AC = 1, 3, 12, 13, 14, 17
_RF = 1 << 16
_AC_FLAG = 1 << 18
_XSAVES = frozenset((Mnemonic.XSAVE, Mnemonic.XSAVE64))
_IMAGES = frozenset((
    Mnemonic.FXSAVE, Mnemonic.FXSAVE64, Mnemonic.FXRSTOR, Mnemonic.FXRSTOR64, Mnemonic.XSAVE,
    Mnemonic.XSAVE64, Mnemonic.XRSTOR, Mnemonic.XRSTOR64, Mnemonic.FNSAVE, Mnemonic.FRSTOR,
    Mnemonic.FNSTENV, Mnemonic.FLDENV))
# A branch into this page is a system call that Linux makes for a native program; a fault there may
# be one that Linux made up.
_VSYSCALL = 0xFFFF_FFFF_FF60_0000
_NULL = 3  # null selectors are 0 to 3; a return to the host's signal handler makes all of them 0
_FETCH = 0x10  # in the error code of a page fault
_BIT_TESTS = frozenset((Mnemonic.BT, Mnemonic.BTS, Mnemonic.BTR, Mnemonic.BTC))
_M32 = (1 << 32) - 1
_PARTIAL = frozenset((Mnemonic.PUSHA, Mnemonic.PUSHAD, Mnemonic.POPA, Mnemonic.POPAD))
_ACCESS_FAULTS = frozenset((_SS, _GP, _PF))
_FAULTS = frozenset((0, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 19))


def excluded(program: Program, native: Outcome) -> str | None:
    """Return why the host's outcome of a program cannot be compared, or None if it can."""
    if native.status is Status.NOT_RUN:
        return "the host could not run it"
    if native.status is Status.TIMEOUT:
        return "an endless loop stops anywhere"
    if native.vector == _AC or native.state.rflags & _AC_FLAG:
        return "the host has CR0.AM set; the guest has not"
    if _stopped_early(program, native.state.rip + program.base):
        return "what an instruction left undefined was not cleared"
    ins = instruction_at(program, native)
    if ins is not None and ins.mnemonic == Mnemonic.RETF:
        return "AMD reads the outer stack before it checks the selector"
    if program.bits != 64 and native.vector in (_SS, _GP) and ins is not None \
            and _straddles(ins, native.state):
        return "with a limit of 4 GiB an access that passes it may fault or wrap (SDM 3A 5.3)"
    if ins is not None and native.vector in _ACCESS_FAULTS \
            and (ins.mnemonic in _PARTIAL or ins.is_call_far):
        return "how much of a PUSHA, POPA or far CALL that faults is done the processor decides"
    if program.bits != 64 and ins is not None and native.vector in (_SS, _GP) \
            and ins.mnemonic in _IMAGES:
        return "how much of an image that passes a limit is stored the processor decides"
    if ins is not None and ins.mnemonic == Mnemonic.INT1:
        return "hypervisors under the host give INT1 its own address"
    if native.vector == _PF and native.error & _FETCH and _undefined(program, native):
        return "how long an undefined instruction is the processor decides"
    if program.bits == 64 and native.vector in (_SS, _GP) and ins is not None \
            and _effective_address_wraps(ins, native.state):
        return "AMD wants the effective address canonical, Intel only its sum with FS or GS base"
    return None


def _undefined(program: Program, native: Outcome) -> bool:
    """Whether the bytes at the stop are no instruction, whatever follows in the unfetched page."""
    start = program.place_of(native.state.rip)
    seen = code_at_the_end(program, native)[start:native.cr2 - program.origin]
    return Decoder(program.bits, seen + bytes(15), ip=native.state.rip).decode().is_invalid


def _stopped_early(program: Program, rip: int) -> bool:
    """Whether the program stopped at an item that would have made earlier items comparable."""
    items = dict(zip(program.starts, program.items, strict=False))
    return rip in items and items[rip].tied


def _effective_address_wraps(ins: Instruction, state: State) -> bool:
    """Whether a faulting FS or GS operand is canonical only together with the segment's base."""
    if not has_base(ins.segment_prefix):
        return False
    address = ins.memory_displacement
    for register, scale in ((ins.memory_base, 1), (ins.memory_index, ins.memory_index_scale)):
        number = gpr_number(register)
        if number is not None:
            address += state.gpr[number] * scale
    address += _bit_offset(ins, state)
    base = state.fs_base if ins.segment_prefix == Register.FS else state.gs_base
    return not _canonical(address) and _canonical(address + base)


def _straddles(ins: Instruction, state: State) -> bool:
    """Whether an operand in FS or GS begins below 4 GiB and ends above."""
    if not has_base(ins.segment_prefix) or ins.memory_displ_size == 2:
        return False
    offset = ins.memory_displacement
    for register, scale in ((ins.memory_base, 1), (ins.memory_index, ins.memory_index_scale)):
        number = gpr_number(register)
        if number is not None:
            offset += state.gpr[number] * scale
    return (offset & _M32) + MemorySizeExt.size(ins.memory_size) > 1 << 32


def _bit_offset(ins: Instruction, state: State) -> int:
    """Return how many bytes from its operand a bit test with a register offset accesses memory."""
    if ins.mnemonic not in _BIT_TESTS or ins.op_kind(1) != OpKind.REGISTER:
        return 0
    number = gpr_number(ins.op_register(1))
    assert number is not None
    bits = 8 * RegisterExt.size(ins.op_register(1))
    offset = state.gpr[number] & (1 << bits) - 1
    return ((offset ^ 1 << bits - 1) - (1 << bits - 1)) // bits * (bits // 8)


def _canonical(address: int) -> bool:
    return (address >> 47) & 0x1FFFF in (0, 0x1FFFF)


def compare(program: Program, native: Outcome, other: Outcome, *,
            departs: Departure = Departure.NONE) -> list[str]:
    """Return each difference as a line with native's value first; an empty list means equal.

    `departs` is what the other engine may do instead at an indirect branch.
    """
    if other.state.rip & -layout.PAGE == _VSYSCALL:
        return []
    if other.vector == _PF and other.cr2 & -layout.PAGE == FRAME_PAGE:
        return []  # the native program has memory of its own there
    found = _compare(program, native, other)
    if found and departs is not Departure.NONE:
        departed = as_departed(program, native, departs)
        if departed is not None and not _compare(program, departed, other):
            return []
    return found


def _compare(program: Program, native: Outcome, other: Outcome) -> list[str]:
    if native.status is not other.status:
        return [f"status: {native.status.name} / {other.status.name} {other.note}"]
    out = []
    if program.bits != 64 and _either_fault(program, native, other):
        other = replace(other, vector=native.vector, error=native.error, cr2=native.cr2)
    if native.vector != other.vector:
        out.append(f"vector: {native.vector} / {other.vector} {other.note}".rstrip())
    a, b = native.state, other.state
    if a.rip != b.rip:
        out.append(f"rip: {a.rip:#x} / {b.rip:#x}")
    if native.vector != SYSCALL_VECTOR:
        out += _compare_error(program, native, other)
    # In other code nobody sees the high halves, nor R8 to R15.
    count, mask = (16, (1 << 64) - 1) if program.bits == 64 else (8, (1 << 32) - 1)
    for name, x, y in zip(REGISTERS[:count], a.gpr, b.gpr, strict=False):
        if (x ^ y) & mask:
            out.append(f"{name}: {x:#x} / {y:#x}")
    mask = comparable_flags(program, native)
    if (a.rflags ^ b.rflags) & mask:
        out.append(f"rflags: {a.rflags & mask:#x} / {b.rflags & mask:#x} "
                   f"(differ in {(a.rflags ^ b.rflags) & mask:#x})")
    for name, x, y in zip(SEGMENTS, a.selectors, b.selectors, strict=True):
        if x != y and (x | y) > _NULL:
            out.append(f"{name}: {x:#x} / {y:#x}")
    for name in ("fs_base", "gs_base"):
        if getattr(a, name) != getattr(b, name):
            out.append(f"{name}: {getattr(a, name):#x} / {getattr(b, name):#x}")
    if a.xsave != b.xsave:
        theirs = xsave.fields(xsave.canonical(b.xsave))
        for name, value in xsave.fields(xsave.canonical(a.xsave)).items():
            if value != theirs[name]:
                out.append(f"{name}: {value} / {theirs[name]}")
    return out + _compare_memory(program, native, other)


def _either_fault(program: Program, native: Outcome, other: Outcome) -> bool:
    """Whether both are faults of an instruction with several accesses, in any order.

    Those of an image may pass a segment's limit, and a page that is not there.
    """
    ins = instruction_at(program, native)
    return ins is not None and native.state.rip == other.state.rip \
        and {native.vector, other.vector} <= _ACCESS_FAULTS \
        and ins.mnemonic in _IMAGES


def comparable_flags(program: Program, native: Outcome) -> int:
    """Return the RFLAGS bits that must be equal: all at the end, the live ones at a fault.

    RF is compared at faults, where the processor pushes it set, but not at a trap between two
    repetitions of a string instruction or two lanes of a gather: Intel pushes it set there (SDM 3B
    17.3.1.1), AMD clear.
    """
    mask = (1 << 22) - 1
    ins = instruction_at(program, native)
    if native.vector == _DB and ins is not None and (ins.is_string_instruction or ins.is_vsib):
        mask &= ~_RF
    if native.vector in _FAULTS:
        code = code_at_the_end(program, native)
        mask &= ~ARITHMETIC | flags_live_at(code, program.origin, native.state.rip + program.base,
                                            program.bits)
    return mask


def _compare_error(program: Program, native: Outcome, other: Outcome) -> list[str]:
    out = []
    mask = ~0
    if native.vector == _PF:
        if native.cr2 != other.cr2:
            if _in_one_image(program, native, other):
                return []
            out.append(f"cr2: {native.cr2:#x} / {other.cr2:#x}")
        if native.cr2 >= TASK_SIZE_MAX:
            mask = ~1
    elif native.vector in (_DB, _BP):
        return []
    if (native.error ^ other.error) & mask:
        out.append(f"error code: {native.error:#x} / {other.error:#x}")
    return out


@cache
def host_area() -> int:
    """Return the size of the host's XSAVE area, with AVX-512 and all that its kernel enables.

    The host also accesses the bytes beyond the guest's area.
    """
    return host_cpuid(0xD, 0)[1]


def _in_one_image(program: Program, native: Outcome, other: Outcome) -> bool:
    """Whether both addresses lie in the area of an FXSAVE, FNSAVE or the like.

    Microcode accesses the area in an order that depends on the processor (AMD: last byte first).
    """
    ins = instruction_at(program, native)
    return ins is not None and ins.mnemonic in _IMAGES \
        and abs(native.cr2 - other.cr2) < max(xsave.SIZE, host_area())


def _compare_memory(program: Program, native: Outcome, other: Outcome) -> list[str]:
    saves = any(i.mnemonic in _XSAVES for i in Decoder(program.bits, program.code))
    out = []
    for page in sorted({*native.pages, *other.pages}):
        start = page * layout.PAGE
        base = layout.BASE_IMAGE[start:start + layout.PAGE]
        a, b = native.pages.get(page, base), other.pages.get(page, base)
        if a == b or (saves and _same_but_in_use(a, b)):
            continue
        first = next(i for i in range(layout.PAGE) if a[i] != b[i])
        area = next(x for x in layout.AREAS.values() if x.offset <= start < x.offset + x.size)
        linear = area.linear + start - area.offset + first
        out.append(f"memory {linear:#x} ({area.name}): {a[first:first + 16].hex()} / "
                   f"{b[first:first + 16].hex()}")
    return out


def _same_but_in_use(a: bytes, b: bytes) -> bool:
    """Whether only XSTATE_BV of an XSAVE differs, by SSE or AVX.

    A processor may report a component with initial values as in use (SDM 1 13.6), and a return from
    a signal handler can change that.
    """
    changed = [i for i in range(len(a)) if a[i] != b[i]]
    return len(changed) == 1 and changed[0] % 64 == 0 and not (a[changed[0]] ^ b[changed[0]]) & ~6
