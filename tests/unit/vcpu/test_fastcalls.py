"""SYSCALL, SYSRET, SYSENTER, SYSEXIT."""

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    EMU_FAULT,
    EMU_FLOW,
    GP,
    IF,
    K_CODE,
    KERNEL_CODE,
    NON_CANONICAL,
    NT,
    RF,
    TF,
    U_CODE,
    U_CODE32,
    U_DATA,
    UD,
    USER_CODE,
    USER_STACK,
    Bench,
)  # fmt: skip

FLAT_CODE64 = 0xA09B
FLAT_DATA = 0xC093


def test_syscall_saves_and_masks(user: Bench) -> None:
    user.set(rflags=0xED7 | NT | RF)
    assert user.run(Op.OP_SYSCALL, code=b"\x0f\x05") == EMU_FLOW
    assert user.get("rcx") == USER_CODE + 2
    assert user.get("r11") == 0xED7 | NT
    assert user.get("rflags") == (0xED7 | NT) & ~0x47700
    assert user.get("rip") == KERNEL_CODE + 0x800
    assert user.get("cpl") == 0
    assert user.p.get_segment("cs") == (K_CODE, 0, 0xFFFFFFFF, FLAT_CODE64)
    assert user.p.get_segment("ss") == (K_CODE + 8, 0, 0xFFFFFFFF, FLAT_DATA)
    assert user.get("rsp") == USER_STACK
    assert user.get("key") & 0x1F == 0x10


def test_syscall_without_sce_is_undefined(user: Bench) -> None:
    user.set(efer=0xD00)
    assert user.run(Op.OP_SYSCALL) == EMU_FAULT
    assert user.fault() == (UD, None)


def test_syscall_in_compatibility_mode_is_undefined(user: Bench) -> None:
    user.p.set_segment("cs", U_CODE32 | 3, 0, 0xFFFFFFFF, 0xC0FB)
    assert user.run(Op.OP_SYSCALL) == EMU_FAULT
    assert user.fault() == (UD, None)


def test_sysret_to_64_bit_mode(kernel: Bench) -> None:
    kernel.set(rcx=USER_CODE, r11=0x3F7EFF | 1 << 40)
    assert kernel.run(Op.OP_SYSRET, size=8) == EMU_FLOW
    assert kernel.get("rip") == USER_CODE
    assert kernel.get("rflags") == 0x3C7ED7
    assert kernel.p.get_segment("cs") == (U_CODE | 3, 0, 0xFFFFFFFF, FLAT_CODE64 | 0x60)
    assert kernel.p.get_segment("ss") == (U_DATA | 3, 0, 0xFFFFFFFF, FLAT_DATA | 0x60)
    assert kernel.get("cpl") == 3


def test_sysret_to_compatibility_mode(kernel: Bench) -> None:
    kernel.set(rcx=0xFFFF_FFFF_0008_0000, r11=0x202)
    assert kernel.run(Op.OP_SYSRET, size=4) == EMU_FLOW
    assert kernel.get("rip") == 0x80000
    assert kernel.p.get_segment("cs") == (U_CODE32 | 3, 0, 0xFFFFFFFF, 0xC0FB)
    assert kernel.get("key") & 0x1F == 3 | 8


def test_sysret_to_a_non_canonical_address_faults_at_cpl0(kernel: Bench) -> None:
    kernel.set(rcx=NON_CANONICAL, r11=0x202)
    assert kernel.run(Op.OP_SYSRET, size=8) == EMU_FAULT
    assert kernel.fault() == (GP, 0)
    assert kernel.get("cpl") == 0


def test_sysret_is_privileged_and_needs_sce(user: Bench) -> None:
    assert user.run(Op.OP_SYSRET) == EMU_FAULT
    assert user.fault() == (GP, 0)
    user.set(efer=0xD00)
    assert user.run(Op.OP_SYSRET) == EMU_FAULT
    assert user.fault() == (UD, None)


def test_sysenter(user: Bench) -> None:
    user.set(sysenter_esp=0xFFFF800000001000, sysenter_eip=0xFFFF800000002000)
    assert user.run(Op.OP_SYSENTER) == EMU_FLOW
    assert user.get("rsp") == 0xFFFF800000001000
    assert user.get("rip") == 0xFFFF800000002000
    assert user.p.get_segment("cs") == (K_CODE, 0, 0xFFFFFFFF, FLAT_CODE64)
    assert user.p.get_segment("ss") == (K_CODE + 8, 0, 0xFFFFFFFF, FLAT_DATA)
    assert (user.get("cpl"), user.get("rflags") & IF) == (0, 0)


@pytest.mark.parametrize("selector", [0, 3])
def test_sysenter_and_sysexit_with_a_null_selector(selector: int) -> None:
    user, kernel = Bench(3), Bench(0)
    user.set(sysenter_cs=selector)
    kernel.set(sysenter_cs=selector)
    assert user.run(Op.OP_SYSENTER) == EMU_FAULT
    assert user.fault() == (GP, 0)
    assert kernel.run(Op.OP_SYSEXIT) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_sysexit_to_64_bit_mode(kernel: Bench) -> None:
    kernel.set(rcx=USER_STACK, rdx=USER_CODE)
    assert kernel.run(Op.OP_SYSEXIT, size=8) == EMU_FLOW
    assert (kernel.get("rsp"), kernel.get("rip")) == (USER_STACK, USER_CODE)
    assert kernel.p.get_segment("cs") == (K_CODE + 32 | 3, 0, 0xFFFFFFFF, FLAT_CODE64 | 0x60)
    assert kernel.p.get_segment("ss") == (K_CODE + 40 | 3, 0, 0xFFFFFFFF, FLAT_DATA | 0x60)


def test_sysexit_to_compatibility_mode(kernel: Bench) -> None:
    kernel.set(rcx=0xFFFFFFFF00001000, rdx=0xFFFFFFFF00002000)
    assert kernel.run(Op.OP_SYSEXIT, size=4) == EMU_FLOW
    assert (kernel.get("rsp"), kernel.get("rip")) == (0x1000, 0x2000)
    assert (kernel.selector("cs"), kernel.selector("ss")) == (K_CODE + 16 | 3, K_CODE + 24 | 3)


@pytest.mark.parametrize("register", ["rcx", "rdx"])
def test_sysexit_checks_canonicality(kernel: Bench, register: str) -> None:
    kernel.set(rcx=0, rdx=0)
    kernel.set(**{register: NON_CANONICAL})
    assert kernel.run(Op.OP_SYSEXIT, size=8) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_sysexit_is_privileged(user: Bench) -> None:
    assert user.run(Op.OP_SYSEXIT) == EMU_FAULT
    assert user.fault() == (GP, 0)


def test_syscall_leaves_tf_if_the_mask_does(user: Bench) -> None:
    user.set(sfmask=0, rflags=0x202 | TF)
    assert user.run(Op.OP_SYSCALL) == EMU_FAULT
    assert user.fault() == (1, None)
    assert user.get("rip") == KERNEL_CODE + 0x800


def test_sysret_that_sets_tf_traps_before_the_first_instruction(kernel: Bench) -> None:
    kernel.set(rcx=USER_CODE, r11=0x202 | TF)
    assert kernel.run(Op.OP_SYSRET, size=8) == EMU_FAULT
    assert kernel.fault() == (1, None)
    assert (kernel.get("rip"), kernel.get("cpl")) == (USER_CODE, 3)
