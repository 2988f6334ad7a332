"""Control registers, the machine status word, INVLPG, and the translation key."""

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import (
    CPUID,
    EMU_FAULT,
    EMU_FLOW,
    EMU_NEXT,
    GP,
    HOLE,
    KERNEL_CODE,
    KERNEL_DATA,
    NON_CANONICAL,
    PF,
    PML4,
    RAX,
    RBX,
    U_CODE32,
    UD,
    USER_DATA,
    Bench,
)  # fmt: skip

PE, MP, EM, TS, ET, NE, WP, AM = 1, 2, 4, 8, 0x10, 0x20, 0x10000, 0x40000
NW, CD, PG = 0x20000000, 0x40000000, 0x80000000
CR0 = 0x80050033
CR4 = 0x506A8
KEY_NM, KEY_NOSSE, KEY_NOAVX, KEY_STEP, KEY_EM = 0x20, 0x40, 0x80, 0x100, 0x200


def write(b: Bench, register: int, value: int) -> int:
    b.set(rax=value)
    return b.run(Op.OP_MOV_TO_CR, reg=register, rm=RAX, code=b"\x0f\x22\xd8")


@pytest.mark.parametrize(("number", "value"), [(0, CR0), (2, 0x1234), (3, PML4), (4, CR4), (8, 5)])
def test_read_control_register(kernel: Bench, number: int, value: int) -> None:
    kernel.set(cr2=0x1234, cr8=5)
    assert kernel.run(Op.OP_MOV_FROM_CR, reg=number, rm=RBX) == EMU_NEXT
    assert kernel.get("rbx") == value


@pytest.mark.parametrize("op", [Op.OP_MOV_FROM_CR, Op.OP_MOV_TO_CR])
def test_control_registers_are_privileged_and_few(op: int) -> None:
    user, kernel = Bench(3), Bench(0)
    assert user.run(op, reg=0, rm=RAX) == EMU_FAULT
    assert user.fault() == (GP, 0)
    for number in (1, 5, 6, 7, 9, 15):
        assert kernel.run(op, reg=number, rm=RAX) == EMU_FAULT
        assert kernel.fault() == (UD, None)


@pytest.mark.parametrize(
    "value",
    [CR0 | 1 << 32, CR0 & ~PE, CR0 | NW, CR0 & ~PG],
)
def test_cr0_refuses(kernel: Bench, value: int) -> None:
    assert write(kernel, 0, value) == EMU_FAULT
    assert kernel.fault() == (GP, 0)
    assert kernel.get("cr0") == CR0
    assert kernel.get("rip") == KERNEL_CODE


def test_cr0_ignores_reserved_bits_and_keeps_et(kernel: Bench) -> None:
    assert write(kernel, 0, (CR0 | 0x1F00FFC0) & ~ET) == EMU_FLOW
    assert kernel.get("cr0") == CR0
    assert kernel.get("rip") == KERNEL_CODE + 3


def test_cr0_ts_and_em_change_the_key(kernel: Bench) -> None:
    write(kernel, 0, CR0 | TS)
    assert kernel.get("key") & (KEY_NM | KEY_EM) == KEY_NM
    kernel.run(Op.OP_CLTS)
    assert kernel.get("key") & KEY_NM == 0
    write(kernel, 0, CR0 | EM)
    assert kernel.get("key") & (KEY_NM | KEY_EM) == KEY_NM | KEY_EM


def test_cr0_wp_takes_effect_in_the_mmu(kernel: Bench) -> None:
    kernel.map(KERNEL_DATA, KERNEL_DATA | 1)
    assert kernel.run(Op.OP_MOV_FROM_SEG, ea=KERNEL_DATA, reg=1) == EMU_FAULT
    assert kernel.fault() == (PF, 3)
    write(kernel, 0, CR0 & ~WP)
    assert kernel.run(Op.OP_MOV_FROM_SEG, ea=KERNEL_DATA, reg=1) == EMU_NEXT


def test_leaving_long_mode_from_compatibility_code(kernel: Bench) -> None:
    kernel.p.set_segment("cs", U_CODE32, 0, 0xFFFFFFFF, 0xC09B)
    assert write(kernel, 0, CR0 & ~PG) == EMU_FLOW
    assert kernel.get("efer") == 0x901
    assert write(kernel, 0, CR0) == EMU_FLOW
    assert kernel.get("efer") == 0xD01


def test_entering_long_mode_needs_pae(kernel: Bench) -> None:
    kernel.p.set_segment("cs", U_CODE32, 0, 0xFFFFFFFF, 0xC09B)
    write(kernel, 0, CR0 & ~PG)
    assert write(kernel, 4, CR4 & ~0x20) == EMU_FLOW
    assert write(kernel, 0, CR0) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_cr2_takes_any_value(kernel: Bench) -> None:
    assert write(kernel, 2, NON_CANONICAL | 0xABC) == EMU_NEXT
    assert kernel.get("cr2") == NON_CANONICAL | 0xABC


def test_cr3_loads_and_dispatches_anew(kernel: Bench) -> None:
    assert write(kernel, 3, PML4 | 0x18) == EMU_FLOW
    assert kernel.get("cr3") == PML4 | 0x18
    assert kernel.get("rip") == KERNEL_CODE + 3


@pytest.mark.parametrize("bit", [46, 52, 61, 63])
def test_cr3_beyond_the_physical_address_width(kernel: Bench, bit: int) -> None:
    assert write(kernel, 3, PML4 | 1 << bit) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


@pytest.mark.parametrize("bit", [0, 1, 11, 12, 13, 14, 17, 19, 20, 21, 22, 23, 24, 32, 63])
def test_cr4_hides_what_cpuid_does(kernel: Bench, bit: int) -> None:
    assert write(kernel, 4, CR4 | 1 << bit) == EMU_FAULT
    assert kernel.fault() == (GP, 0)
    assert kernel.get("cr4") == CR4


@pytest.mark.parametrize("bit", [2, 3, 4, 6, 7, 8, 10])
def test_cr4_accepts_what_every_model_has(kernel: Bench, bit: int) -> None:
    assert write(kernel, 4, CR4 ^ 1 << bit) == EMU_FLOW
    assert kernel.get("cr4") == CR4 ^ 1 << bit


def test_cr4_pae_cannot_be_cleared_in_long_mode(kernel: Bench) -> None:
    assert write(kernel, 4, CR4 & ~0x20) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


@pytest.mark.parametrize(("leaf", "bit"), [(7, 16), (1, 18)])
def test_cr4_fsgsbase_and_osxsave_follow_cpuid(kernel: Bench, leaf: int, bit: int) -> None:
    kernel.set(cr4=CR4 & ~(1 << bit))
    kernel.p.set_cpuid([row for row in CPUID if row[0] != leaf])
    assert write(kernel, 4, CR4) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


def test_key_follows_cr4_and_xcr0(kernel: Bench) -> None:
    assert kernel.get("key") == 0x10
    write(kernel, 4, CR4 & ~(1 << 9))
    assert kernel.get("key") == 0x10 | KEY_NOSSE
    write(kernel, 4, CR4 & ~(1 << 18))
    assert kernel.get("key") == 0x10 | KEY_NOAVX
    write(kernel, 4, CR4)
    kernel.set(rax=3, rcx=0, rdx=0)
    kernel.run(Op.OP_XSETBV)
    assert kernel.get("key") == 0x10 | KEY_NOAVX


def test_cr8_without_an_apic_is_only_a_register(kernel: Bench) -> None:
    assert write(kernel, 8, 9) == EMU_NEXT
    assert kernel.get("cr8") == 9


def test_cr8_is_the_task_priority_class(kernel: Bench) -> None:
    assert write(kernel, 8, 9) == EMU_NEXT
    assert kernel.get("cr8") == 9


def test_cr8_has_four_bits(kernel: Bench) -> None:
    assert write(kernel, 8, 0x10) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


# --- SMSW, LMSW, CLTS


@pytest.mark.parametrize(("size", "value"), [(2, 0xAAAAAAAAAAAA0033), (4, CR0), (8, CR0)])
def test_smsw_at_cpl3(user: Bench, size: int, value: int) -> None:
    user.set(rax=0xAAAAAAAAAAAAAAAA)
    assert user.run(Op.OP_SMSW, rm=RAX, size=size) == EMU_NEXT
    assert user.get("rax") == value


def test_smsw_to_memory_writes_16_bits(user: Bench) -> None:
    user.poke(USER_DATA, -1)
    user.run(Op.OP_SMSW, ea=USER_DATA, size=4)
    assert user.q(USER_DATA) == [0xFFFFFFFFFFFF0033]


def test_lmsw_sets_bits_and_cannot_clear_pe(kernel: Bench) -> None:
    kernel.set(rax=0xFFFF000C)
    assert kernel.run(Op.OP_LMSW, rm=RAX) == EMU_FLOW
    assert kernel.get("cr0") == CR0 & ~0xF | 0xD
    kernel.poke(KERNEL_DATA, 0)
    kernel.run(Op.OP_LMSW, ea=KERNEL_DATA)
    assert kernel.get("cr0") == CR0 & ~0xF | 1


def test_lmsw_from_unmapped_memory(kernel: Bench) -> None:
    assert kernel.run(Op.OP_LMSW, ea=HOLE) == EMU_FAULT
    assert kernel.fault() == (PF, 0)


@pytest.mark.parametrize(
    "op", [Op.OP_LMSW, Op.OP_CLTS, Op.OP_INVLPG, Op.OP_INVD, Op.OP_WBINVD, Op.OP_HLT]
)
def test_privileged(user: Bench, op: int) -> None:
    assert user.run(op, rm=RAX) == EMU_FAULT
    assert user.fault() == (GP, 0)


def test_clts_without_ts_goes_straight_on(kernel: Bench) -> None:
    assert kernel.run(Op.OP_CLTS, code=b"\x0f\x06") == EMU_NEXT
    assert kernel.get("rip") == KERNEL_CODE + 2


@pytest.mark.parametrize("address", [KERNEL_DATA, NON_CANONICAL, HOLE])
def test_invlpg(kernel: Bench, address: int) -> None:
    assert kernel.run(Op.OP_INVLPG, ea=address, code=b"\x0f\x01\x38") == EMU_FLOW
    assert kernel.get("rip") == KERNEL_CODE + 3


@pytest.mark.parametrize("op", [Op.OP_INVD, Op.OP_WBINVD])
def test_cache_instructions_do_nothing(kernel: Bench, op: int) -> None:
    assert kernel.run(op) == EMU_NEXT


# --- the key


def test_key_of_the_modes(kernel: Bench) -> None:
    kernel.p.set_segment("cs", 0x1B, 0, 0xFFFFFFFF, 0xC0FB)
    assert kernel.get("key") & 0x1F == 3 | 8
    kernel.p.set_segment("cs", 0x1B, 0, 0xFFFFFFFF, 0x80FB)
    assert kernel.get("key") & 0x1F == 3 | 4


def test_key_step_follows_tf_and_breakpoints(kernel: Bench) -> None:
    kernel.set(rflags=0x302)
    assert kernel.get("key") & KEY_STEP
    kernel.set(rflags=2, dr7=0x401)
    assert kernel.get("key") & KEY_STEP
    kernel.set(dr7=0x400)
    assert not kernel.get("key") & KEY_STEP
