"""Delivery through the IDT: frames, stacks, error codes, nested exceptions."""

import struct
from typing import Any

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    ABSENT_CODE,
    BP,
    CONFORMING,
    DB,
    DE,
    DF,
    EMU_EXIT,
    EMU_FAULT,
    EMU_FLOW,
    GP,
    HOLE,
    IDT,
    IF,
    IST1,
    IST2,
    K_CODE,
    K_CODE32,
    K_DATA,
    KERNEL_CODE,
    KERNEL_STACK,
    MF,
    NMI,
    NON_CANONICAL,
    NP,
    NT,
    PF,
    RF,
    RSP0,
    SS,
    TF,
    TS,
    TSS,
    TSS_SEL,
    U_CODE,
    U_DATA,
    UD,
    USER_CODE,
    USER_STACK,
    Bench,
    handler,
)


def test_fault_at_cpl0_pushes_the_whole_frame_on_the_aligned_stack(kernel: Bench) -> None:
    kernel.set(rsp=KERNEL_STACK - 4, rflags=0x0A97)
    assert kernel.p.raise_exception(UD) == EMU_FLOW
    top = KERNEL_STACK - 16
    assert kernel.q(top - 40, 5) == [KERNEL_CODE, K_CODE, 0x10A97, KERNEL_STACK - 4, K_DATA]
    assert kernel.get("rsp") == top - 40
    assert kernel.get("rip") == handler(UD)
    assert kernel.get("rflags") == 0x0897


def test_fault_with_error_code_pushes_it_last(kernel: Bench) -> None:
    kernel.p.raise_exception(GP, 0x1234)
    assert kernel.q(kernel.get("rsp"), 2) == [0x1234, KERNEL_CODE]
    assert kernel.get("rsp") == KERNEL_STACK - 48


def test_fault_at_cpl3_takes_rsp0_and_a_null_ss(user: Bench) -> None:
    user.p.raise_exception(UD)
    assert user.q(RSP0 - 40, 5) == [USER_CODE, U_CODE | 3, 0x10202, USER_STACK, U_DATA | 3]
    assert user.get("cpl") == 0
    assert user.get("key") & 3 == 0
    assert user.selector("cs") == K_CODE
    assert user.selector("ss") == 0
    assert user.p.get_segment("ss")[3] & 1 << 16
    assert user.selector("ds") == U_DATA | 3


def test_page_fault_writes_cr2(user: Bench) -> None:
    user.p.raise_exception(PF, 6, cr2=0x7FFF12345678)
    assert user.get("cr2") == 0x7FFF12345678
    assert user.q(RSP0 - 48) == [6]


def test_trap_gate_keeps_if(kernel: Bench) -> None:
    kernel.gate(BP, kind=15, dpl=3)
    kernel.run(Op.OP_INT3)
    assert kernel.get("rflags") & IF


def test_interrupt_gate_clears_if_tf_nt_rf(kernel: Bench) -> None:
    kernel.set(rflags=IF | TF | NT | RF | 2)
    kernel.p.interrupt(0x40)
    assert kernel.get("rflags") == 2
    assert kernel.q(kernel.get("rsp") + 16) == [IF | TF | NT | RF | 2]


@pytest.mark.parametrize("cpl", [0, 3])
def test_ist_switches_the_stack_at_any_cpl(cpl: int) -> None:
    b = Bench(cpl)
    b.gate(UD, ist=2)
    b.p.raise_exception(UD)
    assert b.get("rsp") == IST2 - 40


def test_nmi_uses_vector_2_and_blocks_further_ones(kernel: Bench) -> None:
    kernel.set(nmi_pending=1, inhibit=1, halted=1)
    kernel.p.nmi()
    assert kernel.get("rip") == handler(NMI)
    assert (kernel.get("nmi_blocked"), kernel.get("nmi_pending")) == (1, 0)
    assert (kernel.get("inhibit"), kernel.get("halted")) == (0, 0)


def test_external_interrupt_pushes_rf_as_it_is(kernel: Bench) -> None:
    kernel.p.interrupt(0x20)
    assert kernel.q(kernel.get("rsp") + 16) == [0x202]
    assert kernel.get("rip") == handler(0x20)


def test_conforming_handler_stays_at_the_interrupted_cpl(user: Bench) -> None:
    user.gate(UD, selector=CONFORMING)
    user.p.raise_exception(UD)
    assert user.get("cpl") == 3
    assert user.selector("cs") == CONFORMING | 3
    assert user.get("rsp") == USER_STACK - 40
    assert user.p.get_segment("cs")[3] & 1


def test_accessed_bit_of_the_handlers_segment_is_set_in_memory(kernel: Bench) -> None:
    kernel.p.write_phys(0x5000 + K_CODE + 5, b"\x9a")
    kernel.p.raise_exception(UD)
    assert kernel.p.read_phys(0x5000 + K_CODE + 5, 1) == b"\x9b"


# --- the gate is at fault: the second exception is #GP or #NP, delivered in its place


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kind": 5}, (GP, UD * 8 + 3)),
        ({"kind": 12}, (GP, UD * 8 + 3)),
        ({"present": False}, (NP, UD * 8 + 3)),
        ({"selector": 0}, (GP, 1)),
        ({"selector": 0x160}, (GP, 0x161)),
        ({"selector": 0x1C}, (GP, 0x1D)),
        ({"selector": K_DATA}, (GP, K_DATA + 1)),
        ({"selector": U_CODE | 3}, (GP, U_CODE + 1)),
        ({"selector": K_CODE32}, (GP, K_CODE32 + 1)),
        ({"selector": ABSENT_CODE}, (NP, ABSENT_CODE + 1)),
        ({"offset": NON_CANONICAL}, (GP, 1)),
    ],
)
def test_faulty_gate_of_an_exception(
    kernel: Bench, change: dict[str, Any], expected: tuple[int, int]
) -> None:
    kernel.gate(UD, **change)
    assert kernel.p.raise_exception(UD) == EMU_FLOW
    assert kernel.get("rip") == handler(expected[0])
    assert kernel.q(kernel.get("rsp"), 2) == [expected[1], KERNEL_CODE]
    assert kernel.q(kernel.get("rsp") + 24) == [0x10202]


def test_vector_beyond_the_idt_limit(kernel: Bench) -> None:
    kernel.p.set_table("idtr", IDT, 0x21F + 0xE)
    kernel.p.interrupt(0x22)
    assert kernel.get("rip") == handler(GP)
    assert kernel.q(kernel.get("rsp")) == [0x22 * 8 + 3]


def test_software_interrupt_needs_the_gates_dpl(user: Bench) -> None:
    assert user.run(Op.OP_INT, imm=0x50, code=b"\xcd\x50") == EMU_FLOW
    assert user.get("rip") == handler(GP)
    assert user.q(RSP0 - 48, 2) == [0x50 * 8 + 2, USER_CODE]


def test_software_interrupt_fault_has_ext_clear(kernel: Bench) -> None:
    kernel.gate(0x50, selector=K_DATA)
    kernel.run(Op.OP_INT, imm=0x50, code=b"\xcd\x50")
    assert kernel.q(kernel.get("rsp")) == [K_DATA]


def test_software_interrupt_pushes_the_next_rip(user: Bench) -> None:
    user.gate(0x80, dpl=3)
    assert user.run(Op.OP_INT, imm=-128, code=b"\xcd\x80") == EMU_FLOW
    assert user.q(RSP0 - 40) == [USER_CODE + 2]
    assert user.q(RSP0 - 24) == [0x202]


def test_int3_checks_the_dpl_and_int1_does_not(user: Bench) -> None:
    user.run(Op.OP_INT3, code=b"\xcc")
    assert user.q(RSP0 - 48) == [BP * 8 + 2]
    user.enter(3)
    user.run(Op.OP_INT1, code=b"\xf1")
    assert user.get("rip") == handler(DB)
    assert user.q(RSP0 - 40) == [USER_CODE + 1]


def test_soft_exception_from_outside_emulation_finds_the_next_rip(kernel: Bench) -> None:
    kernel.gate(BP, dpl=3)
    kernel.p.raise_exception(BP, soft=True)
    assert kernel.get("rip") == handler(BP)


# --- the stack is at fault


def test_tss_too_short_for_rsp0_raises_ts(user: Bench) -> None:
    user.p.set_segment("tr", TSS_SEL, TSS, 10, 0x8B)
    user.gate(TS, selector=CONFORMING)
    user.p.raise_exception(UD)
    assert user.get("rip") == handler(TS)
    assert user.q(user.get("rsp")) == [TSS_SEL + 1]


def test_non_canonical_rsp0_raises_ss(user: Bench) -> None:
    user.p.write_phys(TSS + 4, struct.pack("<Q", 1 << 60))
    user.gate(SS, ist=1)
    user.p.raise_exception(UD)
    assert user.get("rip") == handler(SS)
    assert user.q(IST1 - 48) == [1]


def test_unmapped_kernel_stack_raises_pf_with_the_write_bit(kernel: Bench) -> None:
    kernel.set(rsp=HOLE + 0x1000)
    kernel.gate(PF, ist=1)
    kernel.p.raise_exception(UD)
    assert kernel.get("rip") == handler(PF)
    assert kernel.q(IST1 - 48) == [2]
    assert kernel.get("cr2") == HOLE + 0x1000 - 8


def test_frame_that_crosses_into_an_unmapped_page_writes_nothing(kernel: Bench) -> None:
    below = HOLE + 0x1010
    kernel.poke(HOLE + 0x1000, 0xAAAA, 0xBBBB)
    kernel.set(rsp=below)
    kernel.gate(PF, ist=1)
    kernel.p.raise_exception(UD)
    assert kernel.q(HOLE + 0x1000, 2) == [0xAAAA, 0xBBBB]
    assert kernel.get("cr2") == HOLE + 0x1000 - 8


# --- double and triple faults (SDM 3A table 6-5)


def spoil(b: Bench, vector: int) -> None:
    """Make the delivery of a vector raise #NP."""
    b.gate(vector, present=False)


@pytest.mark.parametrize("first", [DE, TS, NP, SS, GP])
def test_contributory_then_contributory_is_a_double_fault(kernel: Bench, first: int) -> None:
    spoil(kernel, first)
    kernel.p.raise_exception(first, None if first == DE else 0)
    assert kernel.get("rip") == handler(DF)
    assert kernel.q(kernel.get("rsp"), 2) == [0, KERNEL_CODE]
    assert kernel.q(kernel.get("rsp") + 24) == [0x202]


def test_page_fault_then_contributory_is_a_double_fault(kernel: Bench) -> None:
    spoil(kernel, PF)
    kernel.p.raise_exception(PF, 2, cr2=0x1234)
    assert kernel.get("rip") == handler(DF)
    assert kernel.get("cr2") == 0x1234


def test_page_fault_then_page_fault_is_a_double_fault(kernel: Bench) -> None:
    kernel.set(rsp=HOLE + 0x1000)
    kernel.gate(DF, ist=1)
    kernel.p.raise_exception(PF, 0, cr2=0x1234)
    assert kernel.get("rip") == handler(DF)
    assert kernel.get("rsp") == IST1 - 48
    assert kernel.get("cr2") == HOLE + 0x1000 - 8


def test_contributory_then_page_fault_is_a_page_fault(kernel: Bench) -> None:
    kernel.set(rsp=HOLE + 0x1000)
    kernel.gate(PF, ist=1)
    kernel.p.raise_exception(GP, 0)
    assert kernel.get("rip") == handler(PF)


@pytest.mark.parametrize("first", [UD, MF, DB])
def test_benign_then_contributory_is_the_second(kernel: Bench, first: int) -> None:
    spoil(kernel, first)
    kernel.p.raise_exception(first)
    assert kernel.get("rip") == handler(NP)
    assert kernel.q(kernel.get("rsp")) == [first * 8 + 3]


def test_interrupt_then_contributory_is_the_second(kernel: Bench) -> None:
    spoil(kernel, 0x40)
    kernel.p.interrupt(0x40)
    assert kernel.q(kernel.get("rsp")) == [0x40 * 8 + 3]


def test_software_interrupt_13_is_benign(kernel: Bench) -> None:
    kernel.gate(13, present=False)
    kernel.gate(NP, ist=1)
    kernel.run(Op.OP_INT, imm=13, code=b"\xcd\x0d")
    assert kernel.get("rip") == handler(NP)


@pytest.mark.parametrize("last", ["gate", "stack"])
def test_fault_while_delivering_a_double_fault_is_a_shutdown(kernel: Bench, last: str) -> None:
    spoil(kernel, GP)
    spoil(kernel, NP)
    if last == "gate":
        spoil(kernel, DF)
    else:
        kernel.set(rsp=HOLE + 0x1000)
    assert kernel.p.raise_exception(GP, 0) == EMU_EXIT
    assert kernel.get("exit_kind") == 6
    assert kernel.get("shutdown_rip") == KERNEL_CODE


def test_empty_idt_is_a_shutdown(user: Bench) -> None:
    user.p.set_table("idtr", 0, 0)
    assert user.run(Op.OP_INT3, code=b"\xcc") == EMU_EXIT
    assert user.get("exit_kind") == 6
    assert user.get("cpl") == 3


# --- #DB


def test_debug_trap_sets_dr6_and_pushes_rf_clear(kernel: Bench) -> None:
    kernel.set(dr6=0xFFFF0FF3, dr7=0x2400)
    kernel.p.raise_exception(DB, dr6=1 << 14)
    assert kernel.get("dr6") == 0xFFFF4FF0
    assert kernel.get("dr7") == 0x400
    assert kernel.q(kernel.get("rsp") + 16) == [0x202]


def test_general_detect_is_a_fault(kernel: Bench) -> None:
    kernel.set(dr7=0x2400)
    assert kernel.run(Op.OP_MOV_FROM_DR, reg=7, rm=0) == EMU_FAULT
    kernel.p.deliver()
    assert kernel.get("dr6") == 0xFFFF2FF0
    assert kernel.q(kernel.get("rsp") + 16) == [0x10202]
