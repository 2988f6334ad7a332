"""Loads of segment registers and their bases: selectors, rights, error codes."""

import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    ABSENT_DATA,
    ABSENT_STACK,
    CONFORMING,
    CONFORMING3,
    CS,
    DATA1,
    DS,
    EMU_FAULT,
    EMU_NEXT,
    ES,
    EXEC_ONLY,
    FS,
    GDT,
    GDT_LIMIT,
    GP,
    GS,
    HOLE,
    K_CODE,
    K_DATA,
    KERNEL_CODE,
    KERNEL_DATA,
    KERNEL_STACK,
    NON_CANONICAL,
    NP,
    PF,
    RAX,
    RBX,
    READ_DATA,
    SS,
    SS_REG,
    TSS_SEL,
    U_CODE,
    U_DATA,
    UD,
    USER_CODE,
    USER_DATA,
    USER_STACK,
    Bench,
)  # fmt: skip


def load(b: Bench, register: int, selector: int) -> int:
    b.set(rax=selector)
    return b.run(Op.OP_MOV_TO_SEG, reg=register, rm=RAX, code=b"\x8e\xd8")


@pytest.mark.parametrize("register", [ES, DS, FS, GS])
def test_null_selector_makes_a_data_segment_unusable(user: Bench, register: int) -> None:
    name = ["es", "cs", "ss", "ds", "fs", "gs"][register]
    user.p.set_segment(name, 0x23, 0x1234, 0xFFFFFFFF, 0xC0F3)
    assert load(user, register, 3) == EMU_NEXT
    assert user.p.get_segment(name) == (3, 0, 0, 1 << 16)
    assert user.get("rip") == USER_CODE + 2


def test_ldt_selector_loads_its_base(user: Bench) -> None:
    assert load(user, FS, 0xC) == EMU_NEXT
    assert user.p.get_segment("fs")[:3] == (0xC, 0x12345678, 0xFFFFFFFF)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (GDT_LIMIT + 1, (GP, GDT_LIMIT + 1)),
        (0x1C, (GP, 0x1C)),
        (K_DATA, (GP, K_DATA)),
        (K_DATA | 3, (GP, K_DATA)),
        (DATA1 | 1, (GP, DATA1)),
        (EXEC_ONLY | 3, (GP, EXEC_ONLY)),
        (TSS_SEL, (GP, TSS_SEL)),
        (ABSENT_DATA | 3, (NP, ABSENT_DATA)),
    ],
)
def test_faulty_data_selector_at_cpl3(
    user: Bench, selector: int, expected: tuple[int, int]
) -> None:
    before = user.p.get_segment("ds")
    assert load(user, DS, selector) == EMU_FAULT
    assert user.fault() == expected
    assert user.p.get_segment("ds") == before
    assert user.get("rip") == USER_CODE


@pytest.mark.parametrize("selector", [U_DATA | 3, U_DATA, U_CODE | 3, READ_DATA, CONFORMING | 3])
def test_good_data_selector_at_cpl3(user: Bench, selector: int) -> None:
    assert load(user, ES, selector) == EMU_NEXT
    assert user.selector("es") == selector


def test_rpl_weakens_a_data_load_at_cpl0(kernel: Bench) -> None:
    assert load(kernel, DS, K_DATA | 3) == EMU_FAULT
    assert kernel.fault() == (GP, K_DATA)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (0, (GP, 0)),
        (3, (GP, 0)),
        (U_DATA, (GP, U_DATA)),
        (K_DATA, (GP, K_DATA)),
        (READ_DATA | 3, (GP, READ_DATA)),
        (U_CODE | 3, (GP, U_CODE)),
        (ABSENT_DATA | 3, (SS, ABSENT_DATA)),
        (GDT_LIMIT + 1 | 3, (GP, GDT_LIMIT + 1)),
    ],
)
def test_faulty_ss_at_cpl3(user: Bench, selector: int, expected: tuple[int, int]) -> None:
    assert load(user, SS_REG, selector) == EMU_FAULT
    assert user.fault() == expected
    assert user.get("inhibit") == 0


def test_absent_stack_segment_at_cpl0(kernel: Bench) -> None:
    assert load(kernel, SS_REG, ABSENT_STACK) == EMU_FAULT
    assert kernel.fault() == (SS, ABSENT_STACK)


def test_null_ss_is_allowed_at_cpl0_with_rpl_0(kernel: Bench) -> None:
    assert load(kernel, SS_REG, 0) == EMU_NEXT
    assert load(kernel, SS_REG, 1) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_load_of_ss_holds_interrupts_back(kernel: Bench) -> None:
    load(kernel, SS_REG, K_DATA)
    assert kernel.get("inhibit") == 2


def test_accessed_bit_is_written_even_for_a_user_load(user: Bench) -> None:
    user.p.write_phys(GDT + U_DATA + 5, b"\xf2")
    load(user, DS, U_DATA | 3)
    assert user.p.read_phys(GDT + U_DATA + 5, 1) == b"\xf3"


def test_accessed_bit_of_an_unwritable_table_faults_before_the_load(kernel: Bench) -> None:
    kernel.p.write_phys(GDT + K_DATA + 5, b"\x92")
    kernel.map(GDT, GDT | 1)
    assert load(kernel, DS, K_DATA) == EMU_FAULT
    assert kernel.fault() == (PF, 3)
    assert kernel.get("exc_cr2") == GDT + K_DATA + 5


def test_unmapped_table_faults_as_a_supervisor_access(user: Bench) -> None:
    user.p.set_table("gdtr", HOLE, 0xFFF)
    assert load(user, DS, U_DATA | 3) == EMU_FAULT
    assert user.fault() == (PF, 0)


@pytest.mark.parametrize("register", [CS, 6, 7])
def test_move_to_no_segment_register_is_undefined(kernel: Bench, register: int) -> None:
    assert load(kernel, register, K_DATA) == EMU_FAULT
    assert kernel.fault() == (UD, None)


def test_move_to_segment_from_memory_reads_16_bits(user: Bench) -> None:
    user.p.write_phys(USER_DATA + 0xFFE, struct.pack("<H", U_DATA | 3))
    assert user.run(Op.OP_MOV_TO_SEG, ea=USER_DATA + 0xFFE, reg=DS) == EMU_NEXT


def test_move_to_segment_from_supervisor_memory_faults(user: Bench) -> None:
    assert user.run(Op.OP_MOV_TO_SEG, ea=KERNEL_DATA, reg=DS) == EMU_FAULT
    assert user.fault() == (PF, 5)


@pytest.mark.parametrize(("size", "expected"), [(2, 0xAAAAAAAAAAAA002B), (4, 0x2B), (8, 0x2B)])
def test_move_from_segment_to_a_register(user: Bench, size: int, expected: int) -> None:
    user.set(rbx=0xAAAAAAAAAAAAAAAA)
    assert user.run(Op.OP_MOV_FROM_SEG, reg=CS, rm=RBX, size=size) == EMU_NEXT
    assert user.get("rbx") == expected


def test_move_from_segment_to_memory_writes_16_bits(user: Bench) -> None:
    user.poke(USER_DATA, 0x1111111111111111)
    user.run(Op.OP_MOV_FROM_SEG, ea=USER_DATA, reg=SS_REG, size=8)
    assert user.q(USER_DATA) == [0x1111111111110023]


def test_move_from_segment_6_is_undefined(user: Bench) -> None:
    assert user.run(Op.OP_MOV_FROM_SEG, reg=6, rm=0) == EMU_FAULT
    assert user.fault() == (UD, None)


def test_push_and_pop_fs(user: Bench) -> None:
    user.p.set_segment("fs", 0x1234, 0, 0, 0)
    assert user.run(Op.OP_PUSH_SEG, code=b"\x0f\xa0") == EMU_NEXT
    assert user.get("rsp") == USER_STACK - 8
    assert user.q(USER_STACK - 8) == [0x1234]
    user.poke(USER_STACK - 8, 0xFFFF0000 | U_DATA | 3)
    assert user.run(Op.OP_POP_SEG, code=b"\x0f\xa1") == EMU_NEXT
    assert (user.selector("fs"), user.get("rsp")) == (U_DATA | 3, USER_STACK)


def test_push_gs_with_a_16_bit_operand(user: Bench) -> None:
    user.p.set_segment("gs", 0x1234, 0, 0, 0)
    user.poke(USER_STACK - 8, -1)
    user.run(Op.OP_PUSH_SEG, size=2, code=b"\x66\x0f\xa8")
    assert user.get("rsp") == USER_STACK - 2
    assert user.q(USER_STACK - 8) == [0x1234FFFFFFFFFFFF]


def test_pop_gs_of_a_bad_selector_leaves_rsp(user: Bench) -> None:
    user.poke(USER_STACK, K_DATA)
    assert user.run(Op.OP_POP_SEG, code=b"\x0f\xa9") == EMU_FAULT
    assert user.fault() == (GP, K_DATA)
    assert user.get("rsp") == USER_STACK


@pytest.mark.parametrize("op", [Op.OP_PUSH_SEG, Op.OP_POP_SEG])
def test_non_canonical_stack_is_a_stack_fault(user: Bench, op: int) -> None:
    user.set(rsp=NON_CANONICAL + 64)
    assert user.run(op, code=b"\x0f\xa0") == EMU_FAULT
    assert user.fault() == (SS, 0)


@pytest.mark.parametrize(
    ("code", "name", "selector"),
    [
        (b"\x48\x0f\xb2\x00", "ss", U_DATA | 3),
        (b"\x48\x0f\xb4\x00", "fs", 0xC),
        (b"\x48\x0f\xb5\x00", "gs", 0xC),
    ],
)
def test_load_far_pointer(user: Bench, code: bytes, name: str, selector: int) -> None:
    user.poke(USER_DATA, 0x1122334455667788, selector)
    assert user.run(Op.OP_LOAD_FAR, ea=USER_DATA, reg=RBX, code=code) == EMU_NEXT
    assert user.selector(name) == selector
    assert user.get("rbx") == 0x1122334455667788
    assert user.get("inhibit") == 0


def test_load_far_pointer_of_32_bits_zero_extends(user: Bench) -> None:
    user.p.write_phys(USER_DATA, struct.pack("<IH", 0x89ABCDEF, 0xC))
    user.set(rbx=-1)
    user.run(Op.OP_LOAD_FAR, ea=USER_DATA, reg=RBX, size=4, code=b"\x0f\xb5\x18")
    assert user.get("rbx") == 0x89ABCDEF


def test_load_far_pointer_with_a_bad_selector_leaves_the_register(user: Bench) -> None:
    user.poke(USER_DATA, 1, K_CODE)
    user.set(rbx=7)
    assert user.run(Op.OP_LOAD_FAR, ea=USER_DATA, reg=RBX, code=b"\x0f\xb5\x18") == EMU_FAULT
    assert user.fault() == (GP, K_CODE)
    assert user.get("rbx") == 7


def test_conforming_code_is_readable_data_from_any_ring(user: Bench) -> None:
    assert load(user, DS, CONFORMING3 | 3) == EMU_NEXT


# --- bases


def test_swapgs_exchanges_the_bases(kernel: Bench) -> None:
    kernel.p.set_segment("gs", 0, 0x1000, 0, 0)
    kernel.set(kernel_gs_base=0xFFFF888000000000)
    assert kernel.run(Op.OP_SWAPGS, code=b"\x0f\x01\xf8") == EMU_NEXT
    assert kernel.p.get_segment("gs")[1] == 0xFFFF888000000000
    assert kernel.get("kernel_gs_base") == 0x1000
    assert kernel.get("rip") == KERNEL_CODE + 3


def test_swapgs_is_privileged(user: Bench) -> None:
    assert user.run(Op.OP_SWAPGS) == EMU_FAULT
    assert user.fault() == (GP, 0)


def test_write_and_read_fs_base(user: Bench) -> None:
    user.set(rax=0x00007FFF12345678)
    assert user.run(Op.OP_WRFSBASE, rm=RAX) == EMU_NEXT
    user.run(Op.OP_RDFSBASE, rm=RBX)
    assert user.get("rbx") == 0x00007FFF12345678


def test_write_gs_base_of_32_bits_zero_extends(user: Bench) -> None:
    user.set(rax=0xFFFFFFFF12345678)
    user.run(Op.OP_WRGSBASE, rm=RAX, size=4)
    user.run(Op.OP_RDGSBASE, rm=RBX, size=8)
    assert user.get("rbx") == 0x12345678


def test_write_base_checks_canonicality(user: Bench) -> None:
    user.set(rax=NON_CANONICAL)
    assert user.run(Op.OP_WRGSBASE, rm=RAX) == EMU_FAULT
    assert user.fault() == (GP, 0)


@pytest.mark.parametrize("op", [Op.OP_RDFSBASE, Op.OP_RDGSBASE, Op.OP_WRFSBASE, Op.OP_WRGSBASE])
def test_base_instructions_need_cr4_fsgsbase(kernel: Bench, op: int) -> None:
    kernel.set(cr4=kernel.get("cr4") & ~(1 << 16))
    assert kernel.run(op, rm=RAX) == EMU_FAULT
    assert kernel.fault() == (UD, None)


def test_stack_pointer_is_untouched_by_moves(kernel: Bench) -> None:
    load(kernel, SS_REG, K_DATA)
    assert kernel.get("rsp") == KERNEL_STACK
