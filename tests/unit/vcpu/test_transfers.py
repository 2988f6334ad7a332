"""Far JMP, CALL and RET, call gates, and IRET."""

import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    ABSENT_CODE,
    ABSENT_DATA,
    ABSENT_GATE,
    AC,
    BAD_GATE,
    CALL_GATE,
    CODE_LD,
    CONFORMING,
    DATA1,
    EMU_FAULT,
    EMU_FLOW,
    FAR_GATE,
    GATE_NULL,
    GATE_TO_DATA,
    GDT,
    GDT_LIMIT,
    GP,
    HOLE,
    ID,
    IF,
    K_CODE,
    K_CODE32,
    K_DATA,
    K_GATE,
    KERNEL_CODE,
    KERNEL_DATA,
    KERNEL_STACK,
    NON_CANONICAL,
    NP,
    NT,
    PF,
    R1_CODE,
    R1_GATE,
    RF,
    RSP0,
    RSP1,
    SS,
    TF,
    TS,
    TSS,
    TSS_SEL,
    U_CODE,
    U_CODE32,
    U_DATA,
    USER_CODE,
    USER_DATA,
    USER_STACK,
    Bench,
)  # fmt: skip

TARGET = 0x33000
LONG_TARGET = 0xFFFF_8000_1234_5678


def far(b: Bench, op: int, selector: int, offset: int = TARGET, size: int = 8) -> int:
    where = USER_DATA if b.get("cpl") == 3 else KERNEL_DATA
    b.p.write_phys(where, offset.to_bytes(size, "little") + struct.pack("<H", selector))
    return b.run(op, ea=where, size=size, code=b"\x48\xff\x2b")


BOTH = pytest.mark.parametrize("op", [Op.OP_JMP_FAR, Op.OP_CALL_FAR])


@BOTH
def test_far_transfer_to_the_same_ring(kernel: Bench, op: int) -> None:
    assert far(kernel, op, K_CODE, LONG_TARGET) == EMU_FLOW
    assert kernel.get("rip") == LONG_TARGET
    assert kernel.selector("cs") == K_CODE


def test_far_call_pushes_cs_and_rip(kernel: Bench) -> None:
    far(kernel, Op.OP_CALL_FAR, K_CODE)
    assert kernel.get("rsp") == KERNEL_STACK - 16
    assert kernel.q(KERNEL_STACK - 16, 2) == [KERNEL_CODE + 3, K_CODE]


@pytest.mark.parametrize("size", [2, 4])
def test_far_call_with_smaller_operands_pushes_less(kernel: Bench, size: int) -> None:
    far(kernel, Op.OP_CALL_FAR, K_CODE, 0x1234, size)
    assert kernel.get("rip") == 0x1234
    assert kernel.get("rsp") == KERNEL_STACK - 2 * size


def test_far_jump_to_conforming_code_keeps_the_ring(user: Bench) -> None:
    assert far(user, Op.OP_JMP_FAR, CONFORMING) == EMU_FLOW
    assert user.get("cpl") == 3
    assert user.selector("cs") == CONFORMING | 3
    assert user.p.read_phys(GDT + CONFORMING + 5, 1) == b"\x9f"


def test_far_jump_to_32_bit_code_enters_compatibility_mode(user: Bench) -> None:
    assert far(user, Op.OP_JMP_FAR, U_CODE32 | 3, USER_CODE, 4) == EMU_FLOW
    assert user.get("key") & 0x1C == 8


@BOTH
@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (0, (GP, 0)),
        (3, (GP, 0)),
        (GDT_LIMIT + 1, (GP, GDT_LIMIT + 1)),
        (0x1C, (GP, 0x1C)),
        (K_DATA, (GP, K_DATA)),
        (K_CODE | 1, (GP, K_CODE)),
        (U_CODE | 3, (GP, U_CODE)),
        (U_CODE, (GP, U_CODE)),
        (CODE_LD, (GP, CODE_LD)),
        (ABSENT_CODE, (NP, ABSENT_CODE)),
        (TSS_SEL, (GP, TSS_SEL)),
        (ABSENT_GATE, (NP, ABSENT_GATE)),
        (GATE_TO_DATA, (GP, K_DATA)),
        (BAD_GATE, (GP, BAD_GATE)),
        (GATE_NULL, (GP, 0)),
        (FAR_GATE, (GP, 0)),
        (K_GATE | 1, (GP, K_GATE)),
    ],
)
def test_faulty_far_transfer_at_cpl0(
    kernel: Bench, op: int, selector: int, expected: tuple[int, int]
) -> None:
    assert far(kernel, op, selector) == EMU_FAULT
    assert kernel.fault() == expected
    assert (kernel.get("rip"), kernel.get("rsp")) == (KERNEL_CODE, KERNEL_STACK)


@BOTH
def test_far_transfer_to_a_non_canonical_address(kernel: Bench, op: int) -> None:
    assert far(kernel, op, K_CODE, NON_CANONICAL) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


@BOTH
def test_far_transfer_beyond_the_limit_of_32_bit_code(kernel: Bench, op: int) -> None:
    kernel.poke(GDT + K_CODE32, 0x00409B000000FFFF)
    assert far(kernel, op, K_CODE32, 0x10000, 4) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_far_pointer_itself_can_page_fault(user: Bench) -> None:
    assert user.run(Op.OP_JMP_FAR, ea=HOLE, size=8) == EMU_FAULT
    assert user.fault() == (PF, 4)


def test_call_gate_to_an_inner_ring(user: Bench) -> None:
    assert far(user, Op.OP_CALL_FAR, CALL_GATE | 3) == EMU_FLOW
    assert user.get("rip") == KERNEL_CODE + 0x100
    assert (user.get("cpl"), user.selector("cs"), user.selector("ss")) == (0, K_CODE, 0)
    assert user.get("rsp") == RSP0 - 32
    assert user.q(RSP0 - 32, 4) == [USER_CODE + 3, U_CODE | 3, USER_STACK, U_DATA | 3]
    assert user.get("rflags") & IF


def test_call_gate_to_ring_1_takes_rsp1(user: Bench) -> None:
    far(user, Op.OP_CALL_FAR, R1_GATE | 3)
    assert (user.get("cpl"), user.selector("cs"), user.selector("ss")) == (1, R1_CODE | 1, 1)
    assert user.get("rsp") == RSP1 - 32


def test_call_gate_to_the_same_ring_pushes_quadwords(kernel: Bench) -> None:
    assert far(kernel, Op.OP_CALL_FAR, CALL_GATE, size=4) == EMU_FLOW
    assert kernel.get("rip") == KERNEL_CODE + 0x100
    assert kernel.get("rsp") == KERNEL_STACK - 16


def test_jump_through_a_gate_cannot_change_the_ring(user: Bench) -> None:
    assert far(user, Op.OP_JMP_FAR, CALL_GATE | 3) == EMU_FAULT
    assert user.fault() == (GP, K_CODE)
    kernel = Bench(0)
    assert far(kernel, Op.OP_JMP_FAR, CALL_GATE) == EMU_FLOW
    assert kernel.get("rip") == KERNEL_CODE + 0x100


def test_gate_dpl_below_cpl(user: Bench) -> None:
    assert far(user, Op.OP_CALL_FAR, K_GATE) == EMU_FAULT
    assert user.fault() == (GP, K_GATE)


def test_call_gate_with_a_short_tss(user: Bench) -> None:
    user.p.set_segment("tr", TSS_SEL, TSS, 10, 0x8B)
    assert far(user, Op.OP_CALL_FAR, CALL_GATE) == EMU_FAULT
    assert user.fault() == (TS, TSS_SEL)


def test_call_gate_to_a_bad_stack(user: Bench) -> None:
    user.p.write_phys(TSS + 4, struct.pack("<Q", 1 << 60))
    assert far(user, Op.OP_CALL_FAR, CALL_GATE) == EMU_FAULT
    assert user.fault() == (SS, 0)
    user.p.write_phys(TSS + 4, struct.pack("<Q", HOLE + 0x1000))
    assert far(user, Op.OP_CALL_FAR, CALL_GATE) == EMU_FAULT
    assert user.fault() == (PF, 2)
    assert user.get("cpl") == 3


# --- RET far


def test_far_return_to_the_same_ring_drops_parameters(kernel: Bench) -> None:
    kernel.poke(KERNEL_STACK, LONG_TARGET, K_CODE)
    assert kernel.run(Op.OP_RET_FAR, imm=0x20) == EMU_FLOW
    assert kernel.get("rip") == LONG_TARGET
    assert kernel.get("rsp") == KERNEL_STACK + 16 + 0x20


def test_far_return_to_an_outer_ring(kernel: Bench) -> None:
    kernel.poke(KERNEL_STACK, USER_CODE, U_CODE | 3, 0xDEAD, USER_STACK, U_DATA | 3)
    assert kernel.run(Op.OP_RET_FAR, imm=8) == EMU_FLOW
    assert (kernel.get("rip"), kernel.get("cpl")) == (USER_CODE, 3)
    assert kernel.get("rsp") == USER_STACK + 8
    assert kernel.selector("ss") == U_DATA | 3
    assert kernel.p.get_segment("ds")[0] == 0
    assert kernel.p.get_segment("ds")[3] & 1 << 16


def test_far_return_keeps_data_segments_of_the_outer_ring(kernel: Bench) -> None:
    kernel.p.set_segment("es", U_DATA, 0, 0xFFFFFFFF, 0xC0F3)
    kernel.p.set_segment("gs", CONFORMING, 0x5000, 0xFFFFFFFF, 0xA09F)
    kernel.poke(KERNEL_STACK, USER_CODE, U_CODE | 3, USER_STACK, U_DATA | 3)
    kernel.run(Op.OP_RET_FAR)
    assert kernel.selector("es") == U_DATA
    assert kernel.selector("gs") == CONFORMING


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ([TARGET, 0], (GP, 0)),
        ([TARGET, GDT_LIMIT + 1], (GP, GDT_LIMIT + 1)),
        ([TARGET, K_DATA], (GP, K_DATA)),
        ([TARGET, CODE_LD], (GP, CODE_LD)),
        ([TARGET, U_CODE], (GP, U_CODE)),
        ([TARGET, K_CODE | 3], (GP, K_CODE)),
        ([TARGET, ABSENT_CODE], (NP, ABSENT_CODE)),
        ([NON_CANONICAL, K_CODE], (GP, 0)),
        ([USER_CODE, U_CODE | 3, USER_STACK, 0], (GP, 0)),
        ([USER_CODE, U_CODE | 3, USER_STACK, 3], (GP, 0)),
        ([USER_CODE, U_CODE | 3, USER_STACK, U_DATA], (GP, U_DATA)),
        ([USER_CODE, U_CODE | 3, USER_STACK, K_DATA | 3], (GP, K_DATA)),
        ([USER_CODE, U_CODE | 3, USER_STACK, U_CODE | 3], (GP, U_CODE)),
        ([USER_CODE, U_CODE | 3, USER_STACK, ABSENT_DATA | 3], (SS, ABSENT_DATA)),
        ([NON_CANONICAL, U_CODE | 3, USER_STACK, U_DATA | 3], (GP, 0)),
    ],
)
def test_faulty_far_return(kernel: Bench, frame: list[int], expected: tuple[int, int]) -> None:
    kernel.poke(KERNEL_STACK, *frame)
    assert kernel.run(Op.OP_RET_FAR) == EMU_FAULT
    assert kernel.fault() == expected
    assert (kernel.get("rsp"), kernel.get("cpl")) == (KERNEL_STACK, 0)


def test_far_return_to_an_inner_ring_is_refused(user: Bench) -> None:
    user.poke(USER_STACK, TARGET, K_CODE)
    assert user.run(Op.OP_RET_FAR) == EMU_FAULT
    assert user.fault() == (GP, K_CODE)


def test_far_return_of_32_bits(kernel: Bench) -> None:
    kernel.p.write_phys(KERNEL_STACK, struct.pack("<II", TARGET, K_CODE))
    kernel.run(Op.OP_RET_FAR, size=4)
    assert (kernel.get("rip"), kernel.get("rsp")) == (TARGET, KERNEL_STACK + 8)


# --- IRET


def frame(b: Bench, rip: int, cs: int, flags: int, rsp: int, ss: int) -> None:
    b.poke(b.get("rsp"), rip, cs, flags, rsp, ss)


def test_iretq_to_the_same_ring_loads_rsp_and_ss(kernel: Bench) -> None:
    frame(kernel, LONG_TARGET, K_CODE, 0x202 | ID | AC, 0x1237, K_DATA)
    assert kernel.run(Op.OP_IRET) == EMU_FLOW
    assert (kernel.get("rip"), kernel.get("rsp")) == (LONG_TARGET, 0x1237)
    assert kernel.get("rflags") == 0x202 | ID | AC
    assert kernel.selector("ds") == K_DATA


def test_iretq_with_a_null_ss_at_cpl0(kernel: Bench) -> None:
    frame(kernel, TARGET, K_CODE, 2, KERNEL_STACK, 0)
    assert kernel.run(Op.OP_IRET) == EMU_FLOW
    assert kernel.selector("ss") == 0


def test_iretq_to_ring_3(kernel: Bench) -> None:
    frame(kernel, USER_CODE, U_CODE | 3, 0x3202, USER_STACK, U_DATA | 3)
    assert kernel.run(Op.OP_IRET) == EMU_FLOW
    assert (kernel.get("cpl"), kernel.get("rip")) == (3, USER_CODE)
    assert kernel.get("key") & 3 == 3
    assert kernel.get("rflags") == 0x3202
    assert kernel.selector("ds") == 0


def test_iretq_to_compatibility_mode(kernel: Bench) -> None:
    frame(kernel, USER_CODE, U_CODE32 | 3, 0x202, 0xFFFFFFFF00001000, U_DATA | 3)
    assert kernel.run(Op.OP_IRET) == EMU_FLOW
    assert kernel.get("key") & 0x1F == 3 | 8
    assert kernel.get("rsp") == 0x1000


def test_iretq_to_ring_1_allows_a_null_ss(kernel: Bench) -> None:
    frame(kernel, TARGET, R1_CODE | 1, 2, 0x5000, 1)
    assert kernel.run(Op.OP_IRET) == EMU_FLOW
    assert kernel.get("cpl") == 1


def test_iret_keeps_iopl_and_if_for_ring_3(user: Bench) -> None:
    user.set(rflags=0x202)
    frame(user, USER_CODE, U_CODE | 3, 0x3002, USER_STACK, U_DATA | 3)
    user.run(Op.OP_IRET)
    assert user.get("rflags") == 0x202


def test_iret_at_cpl1_with_iopl_1_loads_if_but_not_iopl() -> None:
    b = Bench(1)
    b.set(rflags=0x1202)
    frame(b, TARGET, R1_CODE | 1, 0x3002, 0x5000, DATA1 | 1)
    assert b.run(Op.OP_IRET) == EMU_FLOW
    assert b.get("rflags") == 0x1002


def test_iret_of_16_bits_leaves_the_upper_flags(kernel: Bench) -> None:
    kernel.set(rflags=2 | ID)
    kernel.p.write_phys(KERNEL_STACK, struct.pack("<5H", 0x1234, K_CODE, 0x202, 0x100, K_DATA))
    assert kernel.run(Op.OP_IRET, size=2) == EMU_FLOW
    assert (kernel.get("rip"), kernel.get("rsp")) == (0x1234, 0x100)
    assert kernel.get("rflags") == 0x202 | ID


def test_iret_loads_rf_while_there_are_breakpoints(kernel: Bench) -> None:
    kernel.set(dr7=0x401)
    frame(kernel, TARGET, K_CODE, 2 | RF, KERNEL_STACK, K_DATA)
    kernel.run(Op.OP_IRET)
    assert kernel.get("rflags") == 2 | RF


def test_iret_ignores_vm(kernel: Bench) -> None:
    frame(kernel, TARGET, K_CODE, 2 | 1 << 17, KERNEL_STACK, K_DATA)
    assert kernel.run(Op.OP_IRET) == EMU_FLOW
    assert kernel.get("rflags") == 2


def test_iret_with_nt_faults(kernel: Bench) -> None:
    kernel.set(rflags=0x202 | NT)
    frame(kernel, TARGET, K_CODE, 2, KERNEL_STACK, K_DATA)
    assert kernel.run(Op.OP_IRET) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_iret_unblocks_nmis_even_if_it_faults(kernel: Bench) -> None:
    kernel.set(nmi_blocked=1)
    frame(kernel, TARGET, 0, 2, KERNEL_STACK, K_DATA)
    assert kernel.run(Op.OP_IRET) == EMU_FAULT
    assert kernel.get("nmi_blocked") == 0


@pytest.mark.parametrize(
    ("cs", "ss", "rip", "expected"),
    [
        (0, K_DATA, TARGET, (GP, 0)),
        (U_CODE | 3, 0, USER_CODE, (GP, 0)),
        (U_CODE | 3, 3, USER_CODE, (GP, 0)),
        (K_CODE, 1, TARGET, (GP, 0)),
        (K_CODE32, 0, TARGET, (GP, 0)),
        (K_CODE, U_DATA | 3, TARGET, (GP, U_DATA)),
        (U_CODE | 3, U_DATA, USER_CODE, (GP, U_DATA)),
        (U_CODE | 3, ABSENT_DATA | 3, USER_CODE, (SS, ABSENT_DATA)),
        (ABSENT_CODE, K_DATA, TARGET, (NP, ABSENT_CODE)),
        (K_CODE, K_DATA, NON_CANONICAL, (GP, 0)),
        (U_CODE | 3, U_DATA | 3, NON_CANONICAL, (GP, 0)),
        (CALL_GATE, K_DATA, TARGET, (GP, CALL_GATE)),
        (CODE_LD, K_DATA, TARGET, (GP, CODE_LD)),
    ],
)
def test_faulty_iretq(kernel: Bench, cs: int, ss: int, rip: int, expected: tuple[int, int]) -> None:
    frame(kernel, rip, cs, 0x202, USER_STACK, ss)
    assert kernel.run(Op.OP_IRET) == EMU_FAULT
    assert kernel.fault() == expected
    assert kernel.get("rflags") == 0x202
    assert kernel.get("rsp") == KERNEL_STACK


def test_iret_from_an_unmapped_stack(kernel: Bench) -> None:
    kernel.set(rsp=HOLE - 16)
    assert kernel.run(Op.OP_IRET) == EMU_FAULT
    assert kernel.fault() == (PF, 0)
    assert kernel.get("exc_cr2") == HOLE


def test_iret_loads_tf_for_the_next_instruction(kernel: Bench) -> None:
    frame(kernel, TARGET, K_CODE, 2 | TF, KERNEL_STACK, K_DATA)
    assert kernel.run(Op.OP_IRET) == EMU_FLOW
    assert kernel.get("key") & 1 << 8
