"""Flags, HLT, ENTER, and the common effects of operations: RIP, RF, the step trap."""

import struct

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    AC,
    DB,
    EMU_EXIT,
    EMU_FAULT,
    EMU_FLOW,
    EMU_NEXT,
    GP,
    HOLE,
    ID,
    IF,
    K_DATA,
    KERNEL_CODE,
    KERNEL_STACK,
    NON_CANONICAL,
    NT,
    PF,
    RAX,
    RF,
    SS,
    SS_REG,
    TF,
    UD,
    USER_CODE,
    USER_DATA,
    USER_STACK,
    Bench,
)  # fmt: skip

HLT = 5


def test_cli_and_sti_at_cpl0(kernel: Bench) -> None:
    assert kernel.run(Op.OP_CLI) == EMU_NEXT
    assert kernel.get("iflag") == 0
    assert kernel.run(Op.OP_STI) == EMU_NEXT
    assert (kernel.get("iflag"), kernel.get("inhibit")) == (IF, 1)


def test_sti_with_if_set_makes_no_shadow(kernel: Bench) -> None:
    kernel.run(Op.OP_STI)
    assert kernel.get("inhibit") == 0


def test_sti_dispatches_when_an_interrupt_waits(kernel: Bench) -> None:
    kernel.set(rflags=2, intr=1)
    assert kernel.run(Op.OP_STI) == EMU_FLOW
    assert (kernel.get("inhibit"), kernel.get("rip")) == (1, KERNEL_CODE + 1)


def test_shadow_lasts_one_instruction(kernel: Bench) -> None:
    kernel.set(rflags=2)
    kernel.run(Op.OP_STI)
    kernel.run(Op.OP_SERIALIZE)
    assert kernel.get("inhibit") == 0


@pytest.mark.parametrize("op", [Op.OP_CLI, Op.OP_STI])
def test_cli_and_sti_need_iopl(user: Bench, op: int) -> None:
    assert user.run(op) == EMU_FAULT
    assert user.fault() == (GP, 0)
    user.set(rflags=0x3202)
    assert user.run(op) == EMU_NEXT


def test_pushf_shows_the_virtual_flags_without_rf_and_vm(user: Bench) -> None:
    user.set(rflags=0xED7 | NT | RF | AC | ID)
    assert user.run(Op.OP_PUSHF) == EMU_NEXT
    assert user.q(USER_STACK - 8) == [0xED7 | NT | AC | ID]
    assert user.get("rsp") == USER_STACK - 8


def test_pushf_of_16_bits(user: Bench) -> None:
    user.poke(USER_STACK - 8, -1)
    user.run(Op.OP_PUSHF, size=2)
    assert user.get("rsp") == USER_STACK - 2
    assert user.q(USER_STACK - 8) == [0x0202FFFFFFFFFFFF]


def test_pushf_to_an_unmapped_stack(kernel: Bench) -> None:
    kernel.set(rsp=HOLE + 8)
    assert kernel.run(Op.OP_PUSHF) == EMU_FAULT
    assert kernel.fault() == (PF, 2)
    assert kernel.get("rsp") == HOLE + 8


def popf(b: Bench, image: int, size: int = 8) -> int:
    b.p.write_phys(b.get("rsp"), struct.pack("<Q", image))
    return b.run(Op.OP_POPF, size=size)


ALL = 0x3F7FD7 & ~TF


def test_popf_at_cpl0_takes_all_but_vm_rf_vif_vip(kernel: Bench) -> None:
    kernel.set(rflags=2 | RF)
    assert popf(kernel, ALL) == EMU_NEXT
    assert kernel.get("rflags") == 0x247ED7
    assert kernel.get("rsp") == KERNEL_STACK + 8


def test_popf_at_cpl3_keeps_iopl_and_if(user: Bench) -> None:
    assert popf(user, 0x3002) == EMU_NEXT
    assert user.get("rflags") == 0x202
    assert popf(user, ALL & ~IF) == EMU_NEXT
    assert user.get("rflags") == 0x244ED7


def test_popf_at_cpl3_with_iopl_3_takes_if(user: Bench) -> None:
    user.set(rflags=0x3202)
    popf(user, 2)
    assert user.get("rflags") == 0x3002


def test_popf_of_16_bits_keeps_the_upper_flags(kernel: Bench) -> None:
    kernel.set(rflags=2 | AC)
    popf(kernel, 0xFFFFFFFFFFFF0041 | TF, size=2)
    assert kernel.get("rflags") == 0x43 | TF | AC
    assert kernel.get("rsp") == KERNEL_STACK + 2


def test_popf_that_sets_if_dispatches_when_an_interrupt_waits(kernel: Bench) -> None:
    kernel.set(rflags=2, intr=1)
    assert popf(kernel, 0x202) == EMU_FLOW
    assert kernel.get("inhibit") == 0


def test_popf_from_a_non_canonical_stack(kernel: Bench) -> None:
    kernel.set(rsp=NON_CANONICAL)
    assert kernel.run(Op.OP_POPF) == EMU_FAULT
    assert kernel.fault() == (SS, 0)


# --- HLT


def test_hlt_leaves_with_rip_past_it(kernel: Bench) -> None:
    assert kernel.run(Op.OP_HLT, code=b"\xf4") == EMU_EXIT
    assert (kernel.get("exit_kind"), kernel.get("halted")) == (HLT, 1)
    assert kernel.get("rip") == KERNEL_CODE + 1


@pytest.mark.parametrize(
    ("state", "result"),
    [
        ({"intr": 1}, EMU_FLOW),
        ({"intr": 1, "rflags": 2}, EMU_EXIT),
        ({"nmi_pending": 1, "rflags": 2}, EMU_FLOW),
        ({"nmi_pending": 1, "nmi_blocked": 1}, EMU_EXIT),
    ],
)
def test_hlt_with_an_event_pending(kernel: Bench, state: dict[str, int], result: int) -> None:
    kernel.set(**state)
    assert kernel.run(Op.OP_HLT) == result


# --- ENTER


def test_enter_of_level_0(user: Bench) -> None:
    user.set(rbp=0x1234)
    assert user.run(Op.OP_ENTER, imm=0x40) == EMU_NEXT
    assert user.q(USER_STACK - 8) == [0x1234]
    assert user.get("rbp") == USER_STACK - 8
    assert user.get("rsp") == USER_STACK - 8 - 0x40


def test_enter_of_level_3_copies_the_display(user: Bench) -> None:
    user.poke(USER_DATA - 16, 0x2222, 0x1111, 0x9999)
    user.set(rbp=USER_DATA)
    assert user.run(Op.OP_ENTER, imm=3 << 16 | 0x10) == EMU_NEXT
    assert user.q(USER_STACK - 32, 4) == [USER_STACK - 8, 0x2222, 0x1111, USER_DATA]
    assert user.get("rbp") == USER_STACK - 8
    assert user.get("rsp") == USER_STACK - 32 - 0x10


def test_enter_of_16_bits(user: Bench) -> None:
    user.set(rbp=0xAAAAAAAAAAAA1234)
    user.run(Op.OP_ENTER, imm=0, size=2)
    assert user.get("rsp") == USER_STACK - 2
    assert user.get("rbp") == 0xAAAAAAAAAAAA0000 | (USER_STACK - 2) & 0xFFFF


def test_enter_checks_the_final_stack_pointer(user: Bench) -> None:
    user.set(rsp=HOLE + 0x1100, rbp=7, rflags=0x202)
    user.map(HOLE + 0x1000, HOLE + 0x1000 | 7)
    assert user.run(Op.OP_ENTER, imm=0x200) == EMU_FAULT
    assert user.fault() == (PF, 6)
    assert (user.get("rsp"), user.get("rbp")) == (HOLE + 0x1100, 7)


# --- every operation


def test_op_ud_raises_ud(user: Bench) -> None:
    assert user.run(Op.OP_UD) == EMU_FAULT
    assert user.fault() == (UD, None)


def test_op_emulate_leaves(user: Bench) -> None:
    assert user.run(Op.OP_EMULATE) == EMU_EXIT
    assert user.get("exit_kind") == 11


def test_serialize_needs_cpuid(user: Bench) -> None:
    assert user.run(Op.OP_SERIALIZE) == EMU_NEXT
    user.p.set_cpuid([])
    assert user.run(Op.OP_SERIALIZE) == EMU_FAULT
    assert user.fault() == (UD, None)


def test_unknown_operation_is_undefined(user: Bench) -> None:
    assert user.run(Op.OP_NONE) == EMU_FAULT
    assert user.fault() == (UD, None)


@pytest.mark.parametrize("cpl", [0, 1, 3])
@pytest.mark.parametrize("op", list(Op)[1:-1])
def test_every_operation_ends_in_one_of_four_ways(op: int, cpl: int) -> None:
    """Without preparation, no operation crashes, RIP fits the result, and a fault changes no
    register."""
    b = Bench(cpl)
    names = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip", "rflags", "cpl", "cr0"]
    before = {name: b.get(name) for name in names}
    result = b.run(op, ea=USER_DATA, reg=0, rm=RAX, code=b"\x0f\x01\xc8")
    after = {name: b.get(name) for name in names}
    start = before["rip"]
    assert result in {EMU_NEXT, EMU_FLOW, EMU_FAULT, EMU_EXIT}
    if result == EMU_NEXT:
        assert after["rip"] == start + 3
    if result == EMU_FAULT:
        assert after == before


@pytest.mark.parametrize("op", [Op.OP_CLI, Op.OP_SERIALIZE, Op.OP_SWAPGS])
def test_step_trap_follows_an_operation(kernel: Bench, op: int) -> None:
    kernel.set(rflags=0x202 | TF)
    assert kernel.run(op, code=b"\x90") == EMU_FAULT
    assert kernel.fault() == (DB, None)
    assert kernel.get("exc_dr6") == 1 << 14
    assert kernel.get("rip") == KERNEL_CODE + 1


def test_step_trap_follows_a_popf_that_clears_tf_but_not_one_that_sets_it(kernel: Bench) -> None:
    assert popf(kernel, 0x202 | TF) == EMU_FLOW
    assert popf(kernel, 0x202) == EMU_FAULT
    assert kernel.fault() == (DB, None)


def test_no_step_trap_after_a_load_of_ss(kernel: Bench) -> None:
    kernel.set(rflags=0x202 | TF, rax=K_DATA)
    assert kernel.run(Op.OP_MOV_TO_SEG, reg=SS_REG, rm=RAX) == EMU_NEXT


def test_no_step_trap_after_a_software_interrupt(user: Bench) -> None:
    user.gate(0x80, dpl=3)
    user.set(rflags=0x202 | TF)
    assert user.run(Op.OP_INT, imm=0x80, code=b"\xcd\x80") == EMU_FLOW
    assert user.get("rflags") & TF == 0


def test_step_trap_ends_a_halt(kernel: Bench) -> None:
    kernel.set(rflags=0x202 | TF)
    assert kernel.run(Op.OP_HLT) == EMU_FAULT
    assert (kernel.fault(), kernel.get("halted")) == ((DB, None), 0)


@pytest.mark.parametrize("op", [Op.OP_IN, Op.OP_OUT])
def test_step_trap_follows_port_instructions_after_the_machine_acted(
    kernel: Bench, op: int
) -> None:
    kernel.set(rflags=0x202 | TF, rdx=0x80)
    assert kernel.run(op, size=1, code=b"\xec") == EMU_EXIT
    assert kernel.p.complete(1) == EMU_FAULT
    assert kernel.fault() == (DB, None)
    assert kernel.get("rip") == KERNEL_CODE + 1


def test_complete_without_a_pending_operation_does_nothing(user: Bench) -> None:
    assert user.p.complete(5) == EMU_NEXT
    assert user.get("rip") == USER_CODE


def test_delivering_the_step_trap_pushes_the_next_rip(kernel: Bench) -> None:
    kernel.set(rflags=0x202 | TF)
    kernel.run(Op.OP_CLI)
    kernel.p.deliver()
    assert kernel.q(kernel.get("rsp"), 3)[::2] == [KERNEL_CODE + 1, 2 | TF]
    assert kernel.get("dr6") == 0xFFFF4FF0


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        (b"\x0f\x01\x04\x24", SS),  # [rsp]
        (b"\x0f\x01\x45\x10", SS),  # [rbp+10h]
        (b"\x0f\x01\x44\x05\x10", SS),  # [rbp+rax+10h]
        (b"\x0f\x01\x04\x05\x00\x00\x00\x00", GP),  # [rax+disp32]
        (b"\x0f\x01\x05\x00\x00\x00\x00", GP),  # [rip]
        (b"\x41\x0f\x01\x04\x24", GP),  # [r12]
        (b"\x41\x0f\x01\x45\x10", GP),  # [r13+10h]
        (b"\x0f\x01\x00", GP),  # [rax]
    ],
)
def test_non_canonical_operand_names_its_segment(user: Bench, code: bytes, vector: int) -> None:
    assert user.run(Op.OP_SGDT, ea=NON_CANONICAL, code=code) == EMU_FAULT
    assert user.fault() == (vector, 0)


def test_non_canonical_operand_with_an_override_is_a_gp(user: Bench) -> None:
    code = b"\x64\x0f\x01\x04\x24"
    assert user.run(Op.OP_SGDT, ea=NON_CANONICAL, code=code, segment=4) == EMU_FAULT
    assert user.fault() == (GP, 0)
