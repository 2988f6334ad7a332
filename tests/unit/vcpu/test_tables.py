"""Descriptor-table registers, LLDT, LTR, LAR, LSL, VERR, VERW."""

import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    ABSENT_CODE,
    ABSENT_LDT,
    ABSENT_TSS,
    CALL_GATE,
    CONFORMING,
    EMU_FAULT,
    EMU_NEXT,
    EXEC_ONLY,
    EXPAND_DOWN,
    GDT,
    GDT_LIMIT,
    GP,
    HOLE,
    IDT,
    K_CODE,
    K_DATA,
    KERNEL_DATA,
    LDT,
    LDT_SEL,
    NON_CANONICAL,
    NP,
    PF,
    RAX,
    RBX,
    READ_DATA,
    TSS,
    TSS_FREE,
    TSS_SEL,
    U_CODE,
    U_DATA,
    USER_DATA,
    ZF,
    Bench,
    segment,
    system,
)  # fmt: skip


@pytest.mark.parametrize(
    ("op", "base", "limit"), [(Op.OP_SGDT, GDT, GDT_LIMIT), (Op.OP_SIDT, IDT, 0xFFF)]
)
def test_store_table_register_at_cpl3(user: Bench, op: int, base: int, limit: int) -> None:
    user.poke(USER_DATA, -1, -1)
    assert user.run(op, ea=USER_DATA) == EMU_NEXT
    assert user.p.read_phys(USER_DATA, 12) == struct.pack("<HQ", limit, base) + b"\xff\xff"


@pytest.mark.parametrize(("op", "name"), [(Op.OP_LGDT, "gdtr"), (Op.OP_LIDT, "idtr")])
def test_load_table_register(kernel: Bench, op: int, name: str) -> None:
    kernel.p.write_phys(KERNEL_DATA, struct.pack("<HQ", 0x7F, 0xFFFF800000001000))
    assert kernel.run(op, ea=KERNEL_DATA) == EMU_NEXT
    assert kernel.p.get_table(name) == (0xFFFF800000001000, 0x7F)


@pytest.mark.parametrize("op", [Op.OP_LGDT, Op.OP_LIDT])
def test_load_table_register_faults(op: int) -> None:
    user, kernel = Bench(3), Bench(0)
    assert user.run(op, ea=USER_DATA) == EMU_FAULT
    assert user.fault() == (GP, 0)
    kernel.p.write_phys(KERNEL_DATA, struct.pack("<HQ", 0x7F, NON_CANONICAL))
    assert kernel.run(op, ea=KERNEL_DATA) == EMU_FAULT
    assert kernel.fault() == (GP, 0)
    assert kernel.run(op, ea=HOLE) == EMU_FAULT
    assert kernel.fault() == (PF, 0)


@pytest.mark.parametrize(("op", "selector"), [(Op.OP_SLDT, LDT_SEL), (Op.OP_STR, TSS_SEL)])
def test_store_selector(user: Bench, op: int, selector: int) -> None:
    user.set(rax=-1)
    user.poke(USER_DATA, -1)
    user.run(op, rm=RAX, size=4)
    user.run(op, ea=USER_DATA, size=4)
    assert user.get("rax") == selector
    assert user.q(USER_DATA) == [0xFFFFFFFFFFFF0000 | selector]


# --- LLDT and LTR


def test_lldt_loads_a_16_byte_descriptor(kernel: Bench) -> None:
    kernel.p.write_phys(GDT + LDT_SEL, system(2, 0xFFFF800000000000 + LDT, 0x1FF))
    kernel.set(rax=LDT_SEL)
    assert kernel.run(Op.OP_LLDT, rm=RAX) == EMU_NEXT
    assert kernel.p.get_segment("ldtr") == (LDT_SEL, 0xFFFF800000000000 + LDT, 0x1FF, 0x82)


def test_null_ldt_makes_its_selectors_fault(kernel: Bench) -> None:
    kernel.set(rax=0)
    kernel.run(Op.OP_LLDT, rm=RAX)
    kernel.set(rax=0xC)
    assert kernel.run(Op.OP_MOV_TO_SEG, reg=3, rm=RAX) == EMU_FAULT
    assert kernel.fault() == (GP, 0xC)


def test_ltr_sets_busy_in_memory_and_in_tr(kernel: Bench) -> None:
    kernel.set(rax=TSS_FREE)
    assert kernel.run(Op.OP_LTR, rm=RAX) == EMU_NEXT
    assert kernel.p.get_segment("tr") == (TSS_FREE, 0xFFFF800000007000, 0x67, 0x8B)
    assert kernel.p.read_phys(GDT + TSS_FREE + 5, 1) == b"\x8b"
    assert kernel.run(Op.OP_LTR, rm=RAX) == EMU_FAULT
    assert kernel.fault() == (GP, TSS_FREE)


@pytest.mark.parametrize(
    ("op", "selector", "expected"),
    [
        (Op.OP_LTR, 0, (GP, 0)),
        (Op.OP_LTR, 0xC, (GP, 0xC)),
        (Op.OP_LTR, LDT_SEL, (GP, LDT_SEL)),
        (Op.OP_LTR, TSS_SEL, (GP, TSS_SEL)),
        (Op.OP_LTR, ABSENT_TSS, (NP, ABSENT_TSS)),
        (Op.OP_LTR, K_DATA, (GP, K_DATA)),
        (Op.OP_LTR, GDT_LIMIT - 7, (GP, GDT_LIMIT - 7)),
        (Op.OP_LLDT, 0xC, (GP, 0xC)),
        (Op.OP_LLDT, TSS_FREE, (GP, TSS_FREE)),
        (Op.OP_LLDT, ABSENT_LDT, (NP, ABSENT_LDT)),
        (Op.OP_LLDT, K_CODE, (GP, K_CODE)),
    ],
)
def test_faulty_system_selector(
    kernel: Bench, op: int, selector: int, expected: tuple[int, int]
) -> None:
    kernel.set(rax=selector)
    assert kernel.run(op, rm=RAX) == EMU_FAULT
    assert kernel.fault() == expected


def test_system_descriptor_with_a_type_in_its_upper_half_is_refused(kernel: Bench) -> None:
    low, high = struct.unpack("<QQ", system(2, LDT, 0x17))
    kernel.poke(GDT + LDT_SEL, low, high | 0x0200 << 32)
    kernel.set(rax=LDT_SEL)
    assert kernel.run(Op.OP_LLDT, rm=RAX) == EMU_FAULT
    assert kernel.fault() == (GP, LDT_SEL)


@pytest.mark.parametrize("op", [Op.OP_LLDT, Op.OP_LTR])
def test_system_selectors_are_privileged(user: Bench, op: int) -> None:
    user.set(rax=TSS_FREE)
    assert user.run(op, rm=RAX) == EMU_FAULT
    assert user.fault() == (GP, 0)


# --- LAR, LSL, VERR, VERW


def look(b: Bench, op: int, selector: int, size: int = 4) -> int | None:
    """The result of LAR or LSL, or None if ZF is clear."""
    b.set(rax=0xAAAAAAAAAAAAAAAA, rbx=selector)
    assert b.run(op, reg=RAX, rm=RBX, size=size) == EMU_NEXT
    if b.get("rflags") & ZF:
        return b.get("rax")
    assert b.get("rax") == 0xAAAAAAAAAAAAAAAA
    return None


@pytest.mark.parametrize(
    ("selector", "rights"),
    [
        (U_DATA | 3, 0xC0F300),
        (U_CODE | 3, 0xA0FB00),
        (CONFORMING, 0xA09E00),
        (CALL_GATE, 0x00EC00),
        (0x3, None),
        (K_DATA, None),
        (TSS_SEL, None),
        (0x4, None),
        (GDT_LIMIT + 1, None),
    ],
)
def test_lar_at_cpl3(user: Bench, selector: int, rights: int | None) -> None:
    assert look(user, Op.OP_LAR, selector) == rights


@pytest.mark.parametrize(
    ("selector", "rights"),
    [(TSS_SEL, 0x8B00), (LDT_SEL, 0x8200), (TSS_FREE, 0x8900), (ABSENT_CODE, 0xA01B00)],
)
def test_lar_of_system_segments_at_cpl0(kernel: Bench, selector: int, rights: int) -> None:
    assert look(kernel, Op.OP_LAR, selector) == rights


@pytest.mark.parametrize("kind", [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15])
def test_lar_and_lsl_refuse_other_system_types(kernel: Bench, kind: int) -> None:
    kernel.poke(GDT + TSS_FREE, segment(0x80 | kind, 0))
    assert look(kernel, Op.OP_LAR, TSS_FREE) is None
    assert look(kernel, Op.OP_LSL, TSS_FREE) is None


def test_lar_of_16_bits_keeps_the_upper_register(user: Bench) -> None:
    assert look(user, Op.OP_LAR, U_DATA | 3, size=2) == 0xAAAAAAAAAAAAF300


@pytest.mark.parametrize(
    ("selector", "limit"),
    [(U_DATA | 3, 0xFFFFFFFF), (EXPAND_DOWN | 3, 0x123), (CALL_GATE, None), (K_CODE, None)],
)
def test_lsl_at_cpl3(user: Bench, selector: int, limit: int | None) -> None:
    assert look(user, Op.OP_LSL, selector) == limit


def test_lsl_of_a_tss(kernel: Bench) -> None:
    assert look(kernel, Op.OP_LSL, TSS_SEL, size=8) == 0x2100


def test_lsl_from_memory(user: Bench) -> None:
    user.p.write_phys(USER_DATA, struct.pack("<H", U_DATA | 3))
    user.run(Op.OP_LSL, ea=USER_DATA, reg=RAX, size=4)
    assert user.get("rax") == 0xFFFFFFFF


@pytest.mark.parametrize(
    ("selector", "readable", "writable"),
    [
        (U_DATA | 3, True, True),
        (READ_DATA | 3, True, False),
        (EXEC_ONLY | 3, False, False),
        (U_CODE | 3, True, False),
        (CONFORMING, True, False),
        (K_DATA, False, False),
        (TSS_SEL, False, False),
        (0, False, False),
        (0x1C, False, False),
    ],
)
def test_verr_and_verw(user: Bench, selector: int, readable: bool, writable: bool) -> None:
    user.set(rbx=selector, rflags=0x202 | ZF)
    assert user.run(Op.OP_VERR, rm=RBX) == EMU_NEXT
    assert bool(user.get("rflags") & ZF) == readable
    assert user.run(Op.OP_VERW, rm=RBX) == EMU_NEXT
    assert bool(user.get("rflags") & ZF) == writable


def test_descriptor_inspection_can_page_fault(user: Bench) -> None:
    user.p.set_table("gdtr", HOLE, 0xFFF)
    user.set(rbx=U_DATA)
    for op in (Op.OP_LAR, Op.OP_LSL, Op.OP_VERR, Op.OP_VERW):
        assert user.run(op, rm=RBX) == EMU_FAULT
        assert user.fault() == (PF, 0)


def test_str_after_ltr_names_the_new_tss(kernel: Bench) -> None:
    kernel.set(rax=TSS_FREE)
    kernel.run(Op.OP_LTR, rm=RAX)
    kernel.run(Op.OP_STR, rm=RBX, size=8)
    assert kernel.get("rbx") == TSS_FREE
    assert kernel.p.get_segment("tr")[1] & 0xFFFF == TSS
