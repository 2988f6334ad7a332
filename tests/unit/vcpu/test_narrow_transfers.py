"""Far JMP and CALL outside 64-bit mode."""

import itertools

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.narrow import (
    CALL_SEL,
    CODE,
    CODE0,
    CODE1,
    CODE3,
    DATA,
    EMU_FAULT,
    EMU_FLOW,
    FREE,
    FREE2,
    GP,
    RINGS,
    SS,
    STACK0,
    STACK1,
    STACK3,
    STACKS,
    START,
    TOP,
    TS,
    TSS16,
    TSS32,
    TSS_SEL,
    Mode,
    Narrow,
    descriptor,
    gate,
)
from tests.unit.vcpu.narrow_model import (
    Fault,
    direct_transfer,
    every_kind,
    gate_code,
    gate_use,
    inner_stack,
)

PARAGRAPHS = pytest.mark.parametrize("mode", [Mode.REAL, Mode.V86])
PROTECTED = pytest.mark.parametrize("mode", [Mode.P16, Mode.P32])
SIZES = pytest.mark.parametrize("size", [2, 4])
BOTH = pytest.mark.parametrize("op", [Op.OP_JMP_FAR, Op.OP_CALL_FAR])
LENGTH = 7


# --- real and virtual-8086 mode


@PARAGRAPHS
@BOTH
@SIZES
def test_far_transfer_to_a_paragraph(mode: Mode, op: int, size: int) -> None:
    b = Narrow(mode)
    cs = b.p.get_segment("cs")
    assert b.far(op, 0x2345, 0x9ABC, size) == EMU_FLOW
    assert b.p.get_segment("cs") == (0x2345, 0x23450, *cs[2:])
    assert b.get("rip") == 0x9ABC
    count = 2 * (op == Op.OP_CALL_FAR)
    assert b.get("rsp") == TOP - count * size
    assert b.pushed(count, size) == [START + LENGTH, CODE >> 4][:count]


@PARAGRAPHS
@BOTH
def test_far_transfer_beyond_the_limit(mode: Mode, op: int) -> None:
    b = Narrow(mode)
    assert b.far(op, 0x2345, 0x10000, 4) == EMU_FAULT
    assert b.fault() == (GP, 0)
    assert (b.get("rip"), b.get("rsp"), b.selector("cs")) == (START, TOP, CODE >> 4)


def test_big_real_mode_has_code_beyond_64_kib() -> None:
    b = Narrow(Mode.REAL)
    b.p.set_segment("cs", CODE >> 4, CODE, 0xFFFFFFFF, 0x9B)
    assert b.far(Op.OP_JMP_FAR, 0, 0x12345, 4) == EMU_FLOW
    assert b.get("rip") == 0x12345


def test_far_call_with_a_full_stack() -> None:
    b = Narrow(Mode.REAL)
    b.set(rsp=3)
    assert b.far(Op.OP_CALL_FAR, 0x2345, 0) == EMU_FAULT
    assert b.fault() == (SS, 0)


# --- code segments


@pytest.mark.parametrize("kind", range(0x10, 0x20))
@pytest.mark.parametrize("cpl", [0, 1, 3])
@pytest.mark.parametrize("mode", [Mode.P16, Mode.P32, Mode.COMPAT])
@BOTH
def test_every_code_segment(mode: Mode, cpl: int, kind: int, op: int) -> None:
    seen, expected = {}, {}
    b = Narrow(mode, cpl)
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), range(4)):
        b.gdt(FREE, descriptor(made.access, CODE, flags=b.flags))
        seen[made, rpl] = b.outcome(b.far(op, FREE | rpl, 0x1234)), b.selector("cs"), b.get("cpl")
        b.enter(cpl)
        fault = direct_transfer(made, FREE | rpl, cpl) if made.code else (GP, FREE)
        cs = {0: CODE0, 1: CODE1 | 1, 3: CODE3 | 3}[cpl] if fault else FREE | cpl
        expected[made, rpl] = fault, cs, cpl
    assert seen == expected


@PROTECTED
@BOTH
@SIZES
def test_far_transfer_within_a_ring(mode: Mode, op: int, size: int) -> None:
    b = Narrow(mode, 3)
    b.gdt(FREE, descriptor(0xFA, 0x54321, 0xFFFF, 4))
    assert b.far(op, FREE, 0x1234, size) == EMU_FLOW
    assert b.p.get_segment("cs") == (FREE | 3, 0x54321, 0xFFFF, 0x40FB)
    assert b.get("rip") == 0x1234
    assert b.get("key") & 0x1F == 3 | 8
    count = 2 * (op == Op.OP_CALL_FAR)
    assert b.pushed(count, size) == [START + LENGTH, CODE3 | 3][:count]


@PROTECTED
@BOTH
def test_far_pointer_in_memory_and_its_limit(mode: Mode, op: int) -> None:
    b = Narrow(mode)
    b.put(DATA + 0x100, mode.size, 0x1234)
    b.put(DATA + 0x100 + mode.size, 2, CODE0)
    assert b.run(op, ea=0x100, code=b"\xff\x2e\0\1") == EMU_FLOW
    assert b.get("rip") == 0x1234
    assert b.run(op, ea=0xFFFD - (mode.size == 4), code=b"\xff\x2e\0\1") == EMU_FAULT
    assert b.fault() == (GP, 0)


@BOTH
def test_far_transfer_beyond_the_new_limit(op: int) -> None:
    b = Narrow(Mode.P32)
    assert b.far(op, CODE0, 0x10000) == EMU_FAULT
    assert b.fault() == (GP, 0)
    assert b.get("rsp") == TOP


# --- call gates


@pytest.mark.parametrize("kind", [*range(16), 0x1C])
@pytest.mark.parametrize("cpl", [0, 1, 3])
@BOTH
def test_every_gate(cpl: int, kind: int, op: int) -> None:
    seen, expected = {}, {}
    b = Narrow(Mode.P32, cpl)
    code = {0: CODE0, 1: CODE1, 3: CODE3}[cpl]
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), range(4)):
        b.gdt(CALL_SEL, gate(made.type, code, 0x123, made.dpl, p=made.present))
        seen[made, rpl] = b.outcome(b.far(op, CALL_SEL | rpl, 0)), b.get("rip")
        b.enter(cpl)
        fault: Fault = (GP, CALL_SEL)
        if kind in (4, 0xC):
            fault = gate_use(made, CALL_SEL | rpl, cpl)
        expected[made, rpl] = fault, START if fault else 0x123
    # Gates to tasks, and TSSs, are the subject of test_narrow_tasks.
    assert kind in (1, 3, 5, 9, 11, 0x1C) or seen == expected


@pytest.mark.parametrize("kind", range(32))
@pytest.mark.parametrize("cpl", [0, 1, 3])
@BOTH
def test_every_code_segment_behind_a_gate(cpl: int, kind: int, op: int) -> None:
    seen, expected = {}, {}
    b = Narrow(Mode.P32, cpl)
    b.put(TSS32 + 20, 4, RINGS[2], FREE2 | 2)
    b.gdt(FREE2, descriptor(0xD3, STACKS, flags=4))
    b.gdt(CALL_SEL, gate(0xC, FREE, 0x123, 3))
    for made in every_kind(range(kind, kind + 1)):
        b.gdt(FREE, descriptor(made.access, CODE, flags=4))
        seen[made] = b.outcome(b.far(op, CALL_SEL, 0)), b.get("cpl")
        b.enter(cpl)
        fault = gate_code(made, FREE, cpl, jump=op == Op.OP_JMP_FAR)
        expected[made] = fault, cpl if fault or made.conforming else made.dpl
    assert seen == expected


@pytest.mark.parametrize("kind", range(32))
@pytest.mark.parametrize("wide", [True, False])
def test_every_stack_segment_behind_a_gate(kind: int, wide: bool) -> None:
    seen, expected = {}, {}
    b = Narrow(Mode.P32, 3, wide_tss=wide)
    b.gdt(CALL_SEL, gate(0xC, CODE0, 0x123, 3))
    limit = 0x1000 if kind in range(0x14, 0x18) else 0xFFFF  # that of a stack that expands down
    for made, rpl in itertools.product(every_kind(range(kind, kind + 1)), range(4)):
        b.gdt(FREE, descriptor(made.access, STACKS, limit, 4))
        b.put(TSS32 + 8 if wide else TSS16 + 4, 2, FREE | rpl)
        seen[made, rpl] = b.outcome(b.far(Op.OP_CALL_FAR, CALL_SEL, 0))
        b.enter(3)
        expected[made, rpl] = inner_stack(made, FREE | rpl, 0)
    assert seen == expected


@pytest.mark.parametrize("wide_tss", [True, False])
@pytest.mark.parametrize(("kind", "size"), [(4, 2), (0xC, 4)])
@pytest.mark.parametrize("count", [0, 1, 31])
def test_call_to_an_inner_ring_copies_parameters(
    wide_tss: bool, kind: int, size: int, count: int
) -> None:
    b = Narrow(Mode.P32, 3, wide_tss=wide_tss)
    b.gdt(CALL_SEL, gate(kind, CODE0, 0x1234, 3, count))
    parameters = [0x1000 + i for i in range(count)]
    b.put(STACKS + TOP, size, *parameters)
    assert b.far(Op.OP_CALL_FAR, CALL_SEL | 3, 0x999) == EMU_FLOW
    assert (b.get("rip"), b.get("cpl")) == (0x1234, 0)
    assert (b.selector("cs"), b.selector("ss")) == (CODE0, STACK0)
    assert b.get("rsp") == RINGS[0] - size * (4 + count)
    frame = [START + LENGTH, CODE3 | 3, *parameters, TOP, STACK3 | 3]
    assert b.pushed(4 + count, size) == frame


def test_call_gate_to_ring_1() -> None:
    b = Narrow(Mode.P16, 3)
    b.gdt(CALL_SEL, gate(0xC, CODE1, 0x1234, 3))
    assert b.far(Op.OP_CALL_FAR, CALL_SEL, 0) == EMU_FLOW
    assert (b.get("cpl"), b.selector("cs"), b.selector("ss")) == (1, CODE1 | 1, STACK1 | 1)
    assert b.get("rsp") == RINGS[1] - 16


@pytest.mark.parametrize(("kind", "size"), [(4, 2), (0xC, 4)])
def test_call_gate_within_a_ring_pushes_by_the_gate(kind: int, size: int) -> None:
    b = Narrow(Mode.P32)
    b.gdt(CALL_SEL, gate(kind, CODE0, 0x1234, 0, 5))
    assert b.far(Op.OP_CALL_FAR, CALL_SEL, 0) == EMU_FLOW
    assert b.get("rsp") == TOP - 2 * size
    assert b.pushed(2, size) == [START + LENGTH, CODE0]


@pytest.mark.parametrize(
    ("limit", "esp", "expected"),
    [(8, RINGS[0], (TS, TSS_SEL)), (0x3FF, 15, (SS, STACK0)), (0x3FF, 0x10001, (SS, STACK0))],
)
def test_call_gate_without_room(limit: int, esp: int, expected: tuple[int, int]) -> None:
    b = Narrow(Mode.P32, 3)
    b.gdt(CALL_SEL, gate(0xC, CODE0, 0x1234, 3))
    b.p.set_segment("tr", TSS_SEL, TSS32, limit, 0x8B)
    b.put(TSS32 + 4, 4, esp)
    assert b.far(Op.OP_CALL_FAR, CALL_SEL, 0) == EMU_FAULT
    assert b.fault() == expected
    assert (b.get("cpl"), b.get("rsp")) == (3, TOP)


def test_parameters_beyond_the_outer_stack() -> None:
    b = Narrow(Mode.P32, 3)
    b.gdt(CALL_SEL, gate(0xC, CODE0, 0x1234, 3, 4))
    b.set(rsp=0xFFF4)
    assert b.far(Op.OP_CALL_FAR, CALL_SEL, 0) == EMU_FAULT
    assert b.fault() == (SS, 0)


def test_null_stack_in_the_tss() -> None:
    b = Narrow(Mode.P32, 3)
    b.gdt(CALL_SEL, gate(0xC, CODE0, 0x1234, 3))
    b.put(TSS32 + 8, 4, 0)
    assert b.far(Op.OP_CALL_FAR, CALL_SEL, 0) == EMU_FAULT
    assert b.fault() == (TS, 0)


@pytest.mark.parametrize(
    ("change", "expected"), [({"selector": 0}, (GP, 0)), ({"offset": 0x10000}, (GP, 0)),
                             ({"selector": 0x1F8}, (GP, 0x1F8))]
)  # fmt: skip
def test_gate_that_leads_nowhere(change: dict[str, int], expected: tuple[int, int]) -> None:
    b = Narrow(Mode.P32, 3)
    fields = {"selector": CODE0, "offset": 0x1234} | change
    b.gdt(CALL_SEL, gate(0xC, fields["selector"], fields["offset"], 3))
    assert b.far(Op.OP_CALL_FAR, CALL_SEL, 0) == EMU_FAULT
    assert b.fault() == expected


# --- compatibility mode


@pytest.mark.parametrize("kind", [*range(16)])
@BOTH
def test_system_descriptors_in_compatibility_mode(kind: int, op: int) -> None:
    b = Narrow(Mode.COMPAT)
    b.gdt(FREE2, descriptor(0x9B, 0, 0xFFFFF, 0xA))
    b.gdt(CALL_SEL, gate(kind, FREE2, 0x1234), 0)
    result = b.outcome(b.far(op, CALL_SEL, 0))
    assert (result, b.get("rip")) == ((None, 0x1234) if kind == 12 else ((GP, CALL_SEL), START))
    assert b.get("key") & 0x1C == (16 if kind == 12 else 8)


def test_far_jump_from_compatibility_mode_to_64_bit_code() -> None:
    b = Narrow(Mode.COMPAT)
    b.gdt(FREE, descriptor(0x9B, 0x1000, 0, 2))
    assert b.far(Op.OP_JMP_FAR, FREE, 0x123456) == EMU_FLOW
    assert b.get("key") & 0x1C == 16


def test_l_bit_means_nothing_outside_ia32e_mode() -> None:
    b = Narrow(Mode.P32)
    b.gdt(FREE, descriptor(0x9B, CODE, 0xFFFF, 2))
    assert b.far(Op.OP_JMP_FAR, FREE, 0x10000) == EMU_FAULT
    assert b.fault() == (GP, 0)
    assert b.far(Op.OP_JMP_FAR, FREE, 0x1000) == EMU_FLOW
    assert b.get("key") & 0x1C == 4
