"""Debug registers and breakpoint matching."""

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    DB,
    EMU_FAULT,
    EMU_FLOW,
    EMU_NEXT,
    GP,
    KERNEL_CODE,
    RAX,
    RBX,
    RF,
    UD,
    Bench,
)  # fmt: skip


def write(b: Bench, register: int, value: int) -> int:
    b.set(rax=value)
    return b.run(Op.OP_MOV_TO_DR, reg=register, rm=RAX)


def read(b: Bench, register: int) -> int:
    assert b.run(Op.OP_MOV_FROM_DR, reg=register, rm=RBX) == EMU_NEXT
    return b.get("rbx")


@pytest.mark.parametrize("number", range(4))
def test_addresses_hold_64_bits(kernel: Bench, number: int) -> None:
    assert write(kernel, number, 0x123456789ABCDEF0) == EMU_NEXT
    assert read(kernel, number) == 0x123456789ABCDEF0


def test_dr6_has_fixed_bits(kernel: Bench) -> None:
    assert write(kernel, 6, 0) == EMU_NEXT
    assert read(kernel, 6) == 0xFFFF0FF0
    write(kernel, 6, 0xFFFFFFFF)
    assert read(kernel, 6) == 0xFFFFEFFF


def test_dr7_has_fixed_bits(kernel: Bench) -> None:
    assert write(kernel, 7, 0xFFFFDFFF) == EMU_FLOW
    assert read(kernel, 7) == 0xFFFF07FF


@pytest.mark.parametrize("number", [6, 7])
def test_upper_half_of_dr6_and_dr7_is_reserved(kernel: Bench, number: int) -> None:
    assert write(kernel, number, 1 << 32) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_dr4_and_dr5_are_aliases_without_de(kernel: Bench) -> None:
    kernel.set(cr4=kernel.get("cr4") & ~8)
    write(kernel, 4, 1)
    write(kernel, 5, 0x33)
    assert read(kernel, 6) == 0xFFFF0FF1
    assert read(kernel, 5) == 0x433


@pytest.mark.parametrize("op", [Op.OP_MOV_FROM_DR, Op.OP_MOV_TO_DR])
def test_faults_of_debug_registers(op: int) -> None:
    kernel, user = Bench(0), Bench(3)
    assert user.run(op, reg=0, rm=RAX) == EMU_FAULT
    assert user.fault() == (GP, 0)
    for number in (4, 5, 8, 15):
        assert kernel.run(op, reg=number, rm=RAX) == EMU_FAULT
        assert kernel.fault() == (UD, None)
    kernel.set(dr7=0x2400)
    assert kernel.run(op, reg=3, rm=RAX) == EMU_FAULT
    assert kernel.fault() == (DB, None)
    assert kernel.get("exc_dr6") == 1 << 13


def test_cpl_is_checked_before_general_detect(user: Bench) -> None:
    user.set(dr7=0x2400)
    assert user.run(Op.OP_MOV_FROM_DR, reg=3, rm=RAX) == EMU_FAULT
    assert user.fault() == (GP, 0)


def test_instruction_breakpoint_matches_rip(kernel: Bench) -> None:
    kernel.set(dr0=KERNEL_CODE, dr7=0x401)
    assert kernel.p.instruction_breakpoint() == EMU_FAULT
    assert kernel.get("exc_dr6") == 1
    kernel.set(dr0=KERNEL_CODE + 1)
    assert kernel.p.instruction_breakpoint() == 0


def test_rf_passes_an_instruction_breakpoint_once(kernel: Bench) -> None:
    kernel.set(dr2=KERNEL_CODE, dr7=0x420, rflags=2 | RF)
    assert kernel.p.instruction_breakpoint() == 0
    kernel.run(Op.OP_CLI)
    assert kernel.get("rflags") & RF == 0


@pytest.mark.parametrize(
    ("control", "address", "size", "write_access", "hit"),
    [
        (0xD, 0x1000, 4, True, True),
        (0xD, 0x1000, 4, False, False),
        (0xF, 0x1000, 4, False, True),
        (0xD, 0x1003, 1, True, True),
        (0xD, 0x1004, 1, True, False),
        (0xD, 0x0FFF, 2, True, True),
        (0x9, 0x1007, 1, True, True),
        (0x1, 0x1001, 1, True, False),
        (0x0, 0x1000, 1, True, False),
    ],
)
def test_data_breakpoint(
    kernel: Bench, control: int, address: int, size: int, write_access: bool, hit: bool
) -> None:
    kernel.set(dr1=0x1000, dr7=0x404 | control << 20)
    assert kernel.p.data_hits(address, size, write_access) == (2 if hit else 0)
