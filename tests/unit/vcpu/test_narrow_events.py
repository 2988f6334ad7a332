"""Delivery of exceptions and interrupts outside 64-bit mode: tables, gates, frames, stacks."""

import itertools
import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.narrow import (
    AC,
    BP,
    CODE,
    CODE0,
    CODE1,
    CODE3,
    DATA0,
    DATA3,
    DE,
    DF,
    EMU_EXIT,
    EMU_FLOW,
    EMU_NEXT,
    FREE,
    GDT,
    GP,
    HANDLER,
    IDT,
    IF,
    IOPL3,
    IVT,
    NAMES,
    NMI,
    NP,
    NT,
    OF,
    OF_FLAG,
    PF,
    RF,
    RINGS,
    SS,
    STACK0,
    STACK1,
    STACK3,
    STACKS,
    START,
    TF,
    TOP,
    TS,
    TSS16,
    TSS32,
    TSS_SEL,
    UD,
    UNUSABLE,
    VM,
    Mode,
    Narrow,
    descriptor,
    gate,
)
from tests.unit.vcpu.narrow_model import Fault, every_kind, handler_code, inner_stack

TYPES = pytest.mark.parametrize("kind", range(32))
VECTOR = 0x40
INT = bytes([0xCD, VECTOR])


def ends_at(b: Narrow) -> Fault:
    """Return the exception that was delivered in place of VECTOR; its error code is pushed."""
    vector = b.arrived()
    if vector in (None, VECTOR):
        return None
    assert vector is not None
    base = b.p.get_segment("ss")[1]
    return vector, b.words(base + b.get("rsp"), 1, 4)[0]


def software(b: Narrow) -> int:
    return b.run(Op.OP_INT, imm=VECTOR, code=INT)


def settle(b: Narrow, result: int) -> None:
    """Deliver the exception of an operation that raised one."""
    if result == 2:
        assert b.p.deliver() == EMU_FLOW


# --- real mode


def test_interrupt_through_the_real_mode_table() -> None:
    b = Narrow(Mode.REAL)
    b.set(rflags=IF | TF | AC | NT | 3)
    b.put(IVT + 4 * VECTOR, 2, 0x1234, 0x5678)
    assert b.p.interrupt(VECTOR) == EMU_FLOW
    assert b.p.get_segment("cs") == (0x5678, 0x56780, 0xFFFF, 0x93)
    assert b.get("rip") == 0x1234
    assert b.get("rsp") == TOP - 6
    assert b.pushed(3, 2) == [START, CODE >> 4, IF | TF | NT | 3]
    assert b.get("rflags") == NT | 3


@pytest.mark.parametrize(("op", "code", "vector"), [(Op.OP_INT, INT, VECTOR),
                                                    (Op.OP_INT3, b"\xcc", BP)])  # fmt: skip
def test_software_interrupt_in_real_mode(op: int, code: bytes, vector: int) -> None:
    b = Narrow(Mode.REAL)
    assert b.run(op, imm=VECTOR, code=code) == EMU_FLOW
    assert b.arrived() == vector
    assert b.pushed(1, 2) == [START + len(code)]


def test_into_traps_only_on_overflow() -> None:
    b = Narrow(Mode.REAL)
    assert b.run(Op.OP_INTO, code=b"\xce") == EMU_NEXT
    b.flags_or(OF_FLAG)
    assert b.run(Op.OP_INTO, code=b"\xce") == EMU_FLOW
    assert b.arrived() == OF
    assert b.pushed(1, 2) == [START + 2]


def test_fault_in_real_mode_pushes_no_error_code() -> None:
    b = Narrow(Mode.REAL)
    b.p.raise_exception(GP, 0)
    assert b.arrived() == GP
    assert b.get("rsp") == TOP - 6
    assert b.pushed(1, 2) == [START]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(4 * VECTOR + 3, VECTOR), (4 * VECTOR + 2, GP), (4 * GP + 3, GP), (4 * GP + 2, DF)],
)
def test_limit_of_the_real_mode_table(limit: int, expected: int) -> None:
    b = Narrow(Mode.REAL)
    b.p.set_table("idtr", IVT, limit)
    assert software(b) == EMU_FLOW
    assert b.arrived() == expected


def test_real_mode_table_without_a_double_fault_is_a_shutdown() -> None:
    b = Narrow(Mode.REAL)
    b.p.set_table("idtr", IVT, 4 * DF + 2)
    assert software(b) == EMU_EXIT
    assert b.get("exit_kind") == 6


def test_real_mode_table_is_where_idtr_says() -> None:
    b = Narrow(Mode.REAL)
    b.p.set_table("idtr", 0x6000, 0x3FF)
    b.put(0x6000 + 4 * VECTOR, 2, 0x1234, 0x5678)
    software(b)
    assert (b.get("rip"), b.selector("cs")) == (0x1234, 0x5678)


def test_real_mode_stack_without_room() -> None:
    b = Narrow(Mode.REAL)
    b.set(rsp=5)
    assert software(b) == EMU_EXIT  # #SS has no room either, nor has #DF
    assert b.get("exit_kind") == 6


def test_big_real_mode_has_handlers_within_the_limit_of_cs() -> None:
    b = Narrow(Mode.REAL)
    b.p.set_segment("cs", CODE >> 4, CODE, 0xFFF, 0x93)
    b.put(IVT + 4 * VECTOR, 2, 0x1000, 0x5678)
    software(b)
    assert b.arrived() == GP


# --- protected mode: every gate, code segment and stack


@TYPES
@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("soft", [True, False])
def test_every_gate(kind: int, cpl: int, soft: bool) -> None:
    seen, expected = {}, {}
    b = Narrow(Mode.P32, cpl)
    b.idt(GP, gate(14, CODE0, HANDLER + GP))
    for made in every_kind(range(kind, kind + 1)):
        b.idt(VECTOR, gate(made.type, CODE0, HANDLER + VECTOR, made.dpl, p=made.present))
        settle(b, software(b) if soft else b.p.interrupt(VECTOR))
        seen[made] = ends_at(b)
        b.enter(cpl)
        fault: Fault = None
        if made.type not in (6, 7, 14, 15) or (soft and made.dpl < cpl):
            fault = GP, VECTOR * 8 + 2 + (not soft)
        elif not made.present:
            fault = NP, VECTOR * 8 + 2 + (not soft)
        expected[made] = fault
    # A task gate is the subject of test_narrow_tasks.
    assert kind == 5 or seen == expected


@TYPES
@pytest.mark.parametrize("mode", [Mode.P32, Mode.V86])
@pytest.mark.parametrize("cpl", [0, 1, 3])
def test_every_code_segment_behind_a_gate(kind: int, mode: Mode, cpl: int) -> None:
    v86 = mode is Mode.V86
    seen, expected = {}, {}
    b = Narrow(mode, cpl)
    b.put(TSS32 + 20, 4, RINGS[2], FREE + 8 | 2)
    b.gdt(FREE + 8, descriptor(0xD3, STACKS, flags=4))
    cpl = b.get("cpl")
    for made in every_kind(range(kind, kind + 1)):
        b.gdt(FREE, descriptor(made.access, CODE, flags=4))
        b.idt(VECTOR, gate(14, FREE, HANDLER + VECTOR, 3))
        b.set(rflags=2 | (VM | IOPL3) * v86)
        b.enter(cpl)
        settle(b, software(b))
        seen[made] = ends_at(b), b.get("cpl")
        fault = handler_code(made, FREE, cpl, v86=v86)
        expected[made] = fault, 0 if fault else cpl if made.conforming else made.dpl
    assert seen == expected


@TYPES
@pytest.mark.parametrize("wide", [True, False])
def test_every_stack_segment_behind_a_gate(kind: int, wide: bool) -> None:
    seen, expected = {}, {}
    b = Narrow(Mode.P32, 3, wide_tss=wide)
    limit = 0x1000 if kind in range(0x14, 0x18) else 0xFFFF
    b.idt(VECTOR, gate(14, CODE1, HANDLER + VECTOR, 3))
    for vector in (TS, SS):
        b.idt(vector, gate(14, CODE0, HANDLER + vector))
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), range(4)):
        b.gdt(FREE, descriptor(made.access, STACKS, limit, 4))
        b.put(TSS32 + 16 if wide else TSS16 + 8, 2, FREE | rpl)
        settle(b, software(b))
        seen[made, rpl] = ends_at(b)
        b.enter(3)
        expected[made, rpl] = inner_stack(made, FREE | rpl, 1)
    assert seen == expected


@pytest.mark.parametrize(("kind", "size"), [(6, 2), (7, 2), (14, 4), (15, 4)])
@pytest.mark.parametrize("error", [None, 0x1234])
def test_frame_in_the_same_ring(kind: int, size: int, error: int | None) -> None:
    b = Narrow(Mode.P32)
    b.set(rflags=IF | TF | NT | 3)
    b.idt(GP, gate(kind, CODE0, HANDLER + GP))
    b.p.raise_exception(GP, error)
    pushed = [START, CODE0, IF | TF | NT | 3 | RF * (size == 4)]
    frame = pushed if error is None else [error, *pushed]
    assert b.pushed(len(frame), size) == frame
    assert b.get("rsp") == TOP - len(frame) * size
    assert b.get("rflags") == (IF | 3 if kind & 1 else 3)
    assert (b.arrived(), b.selector("ss")) == (GP, STACK0)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(("kind", "size"), [(6, 2), (7, 2), (14, 4), (15, 4)])
@pytest.mark.parametrize("error", [None, 0x1234])
def test_frame_in_an_inner_ring(wide: bool, kind: int, size: int, error: int | None) -> None:
    b = Narrow(Mode.P32, 3, wide_tss=wide)
    b.idt(GP, gate(kind, CODE1, HANDLER + GP))
    b.p.raise_exception(GP, error)
    pushed = [START, CODE3 | 3, 2 | RF * (size == 4), TOP, STACK3 | 3]
    frame = pushed if error is None else [error, *pushed]
    assert b.pushed(len(frame), size) == frame
    assert b.get("rsp") == RINGS[1] - len(frame) * size
    assert (b.get("cpl"), b.selector("cs"), b.selector("ss")) == (1, CODE1 | 1, STACK1 | 1)
    assert b.selector("ds") == DATA3 | 3


@pytest.mark.parametrize(("kind", "size"), [(6, 2), (14, 4)])
@pytest.mark.parametrize("error", [None, 0x1234])
def test_frame_from_virtual_8086_mode(kind: int, size: int, error: int | None) -> None:
    b = Narrow(Mode.V86)
    for number, name in enumerate(("es", "ds", "fs", "gs")):
        b.p.set_segment(name, 0x100 + number, 0x1000 + 16 * number, 0xFFFF, 0xF3)
    b.set(rflags=VM | IF | IOPL3 | 2)
    b.idt(GP, gate(kind, CODE0, HANDLER + GP))
    b.p.raise_exception(GP, error)
    flags = (VM | RF | IF | IOPL3 | 2) & (1 << 8 * size) - 1
    pushed = [START, CODE >> 4, flags, TOP, STACKS >> 4, 0x100, 0x101, 0x102, 0x103]
    frame = pushed if error is None else [error, *pushed]
    assert b.pushed(len(frame), size) == frame
    assert b.get("rsp") == RINGS[0] - len(frame) * size
    assert (b.get("cpl"), b.selector("cs"), b.selector("ss")) == (0, CODE0, STACK0)
    assert b.get("rflags") == IOPL3 | 2
    assert [b.p.get_segment(n) for n in ("es", "ds", "fs", "gs")] == [(0, 0, 0, UNUSABLE)] * 4


def test_iret_undoes_an_interrupt_of_virtual_8086_mode() -> None:
    b = Narrow(Mode.V86)
    b.idt(VECTOR, gate(14, CODE0, HANDLER))
    before = {name: b.p.get_segment(name) for name in NAMES}
    b.p.interrupt(VECTOR)
    assert b.run(Op.OP_IRET, size=4) == EMU_FLOW
    assert {name: b.p.get_segment(name) for name in NAMES} == before
    assert (b.get("rip"), b.get("rsp"), b.get("rflags")) == (START, TOP, VM | 2)


def test_conforming_handler_stays_in_its_ring() -> None:
    b = Narrow(Mode.P32, 3)
    b.gdt(FREE, descriptor(0x9E, CODE, flags=4))
    b.idt(UD, gate(14, FREE, HANDLER + UD))
    b.p.raise_exception(UD)
    assert (b.get("cpl"), b.selector("cs"), b.selector("ss")) == (3, FREE | 3, STACK3 | 3)
    assert b.get("rsp") == TOP - 12
    assert b.p.read_phys(GDT + FREE + 5, 1) == b"\x9f"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (gate(14, 0, HANDLER), (GP, 1)),
        (gate(14, 0x1F8, HANDLER), (GP, 0x1F9)),
        (gate(14, 0x1C, HANDLER), (GP, 0x1D)),
        (gate(14, CODE0, 0x10000), (GP, 1)),
        (gate(6, CODE0, 0x10000 + HANDLER + VECTOR), None),
    ],
)
def test_gate_that_leads_nowhere(value: int, expected: Fault) -> None:
    b = Narrow(Mode.P32)
    b.idt(VECTOR, value)
    b.p.interrupt(VECTOR)
    assert ends_at(b) == expected


@pytest.mark.parametrize(("limit", "vector"), [(8 * VECTOR + 7, VECTOR), (8 * VECTOR + 6, GP)])
def test_limit_of_the_idt(limit: int, vector: int) -> None:
    b = Narrow(Mode.P32)
    b.p.set_table("idtr", IDT, limit)
    b.p.interrupt(VECTOR)
    assert b.arrived() == vector


@pytest.mark.parametrize(
    ("esp", "selector", "limit", "expected"),
    [
        (0x4000, STACK0, 8, (TS, TSS_SEL | 1)),
        (0x4000, 0, 0x3FF, (TS, 1)),
        (19, STACK0, 0x3FF, (SS, STACK0 | 1)),
        (0x10004, STACK0, 0x3FF, (SS, STACK0 | 1)),
    ],
)
def test_inner_stack_at_fault(esp: int, selector: int, limit: int, expected: Fault) -> None:
    b = Narrow(Mode.P32, 3)
    b.gdt(FREE, descriptor(0x9E, CODE, flags=4))
    for vector in (TS, SS):
        b.idt(vector, gate(14, FREE, HANDLER + vector))  # conforming: it keeps its stack
    b.p.set_segment("tr", TSS_SEL, TSS32, limit, 0x8B)
    b.p.write_phys(TSS32 + 4, struct.pack("<II", esp, selector))
    b.p.interrupt(VECTOR)
    assert ends_at(b) == expected


def test_same_stack_without_room() -> None:
    b = Narrow(Mode.P32)
    b.set(rsp=8)
    assert b.p.interrupt(VECTOR) == EMU_EXIT
    assert b.get("exit_kind") == 6


def test_nested_contributory_exceptions_are_a_double_fault() -> None:
    b = Narrow(Mode.P32)
    b.idt(DE, 0)
    b.p.raise_exception(DE)
    assert b.arrived() == DF
    assert b.pushed(2, 4) == [0, START]


def test_page_fault_by_two_level_paging_reports_its_address() -> None:
    b = Narrow(Mode.P32)
    b.put(0x50000, 4, 0x51007)
    b.put(0x51000, 4, *(page << 12 | 7 for page in range(256)))
    b.set(cr3=0x50000, cr0=0x80000011)
    b.p.set_segment("ss", STACK0, 0, 0xFFFFFFFF, 0xC093)
    b.set(rsp=0x400000)
    b.idt(PF, gate(14, CODE1, 0))
    assert b.p.interrupt(VECTOR) == EMU_EXIT
    assert b.get("cr2") == 0x3FFFFC


def test_nmi_through_a_gate() -> None:
    b = Narrow(Mode.P16)
    b.set(nmi_pending=1)
    b.p.nmi()
    assert b.arrived() == NMI
    assert b.run(Op.OP_IRET, size=4) == EMU_FLOW
    assert (b.get("nmi_blocked"), b.get("rip"), b.selector("ds")) == (0, START, DATA0)
