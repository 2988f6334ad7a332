"""RDMSR, WRMSR, the time-stamp counter, RDPMC and RDPID."""

import pytest

from ringlet.core.ops import Op
from ringlet.vcpu.system.cpuid import host_tsc
from tests.unit.vcpu.bench import (
    CPUID,
    EMU_FAULT,
    EMU_FLOW,
    EMU_NEXT,
    GP,
    KERNEL_CODE,
    NON_CANONICAL,
    RBX,
    UD,
    Bench,
)  # fmt: skip

MASK = (1 << 64) - 1


def rdmsr(b: Bench, index: int) -> int | None:
    """The value, or None after #GP(0)."""
    b.set(rcx=index, rax=MASK, rdx=MASK)
    result = b.run(Op.OP_RDMSR, code=b"\x0f\x32")
    if result == EMU_FAULT:
        assert b.fault() == (GP, 0)
        return None
    assert result == EMU_NEXT
    return b.get("rdx") << 32 | b.get("rax")


def wrmsr(b: Bench, index: int, value: int) -> int:
    b.set(rcx=index | 0xFFFFFFFF00000000, rax=value & 0xFFFFFFFF, rdx=value >> 32)
    return b.run(Op.OP_WRMSR, code=b"\x0f\x30")


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0x174, 0x12345678),
        (0x175, 0xFFFF800000001000),
        (0x176, 0x00007FFFFFFFFFFF),
        (0x200, 0x3F0000000006),
        (0x201, 0x3FFFFFF00800),
        (0x20F, 0x3FFFFFF00800),
        (0x213, 0x800),
        (0x250, 0x0606060606060606),
        (0x258, 0x0001040506000000),
        (0x268, 0),
        (0x26F, 0x0505050505050505),
        (0x277, 0x0007040600070406),
        (0x277, 0x0706050401000000),
        (0x2FF, 0xC06),
        (0x3B, 0x123456789),
        (0x48, 0x407),
        (0x1D9, 2),
        (0xC0000081, 0x0023001000000000),
        (0xC0000082, 0xFFFFFFFF81000000),
        (0xC0000083, 0xFFFFFFFF81000040),
        (0xC0000084, 0x47700),
        (0xC0000100, 0x00007FFF00000000),
        (0xC0000101, 0xFFFF888000000000),
        (0xC0000102, 0xFFFF888000000000),
        (0xC0000103, 0x12345),
        (0xDA0, 0),
    ],
)
def test_writable_register(kernel: Bench, index: int, value: int) -> None:
    assert wrmsr(kernel, index, value) == EMU_NEXT
    assert rdmsr(kernel, index) == value
    assert kernel.get("rip") == KERNEL_CODE + 4


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0x175, NON_CANONICAL),
        (0x176, NON_CANONICAL),
        (0x200, 2),
        (0x200, 0x106),
        (0x200, 1 << 46),
        (0x201, 0x400),
        (0x250, 2),
        (0x258, 7),
        (0x26F, 0x0800000000000000),
        (0x277, 2),
        (0x277, 3 << 8),
        (0x277, 8 << 56),
        (0x2FF, 2),
        (0x2FF, 0x1006),
        (0x48, 8),
        (0x49, 2),
        (0x10B, 2),
        (0x1D9, 1),
        (0x3A, 5),
        (0xFE, 0),
        (0xCE, 0),
        (0x10A, 0),
        (0x17A, 1),
        (0xC0000080, 1 << 9),
        (0xC0000080, 1 << 14),
        (0xC0000080, 0xC01),
        (0xC0000082, NON_CANONICAL),
        (0xC0000083, NON_CANONICAL),
        (0xC0000084, 1 << 32),
        (0xC0000100, NON_CANONICAL),
        (0xC0000101, NON_CANONICAL),
        (0xC0000102, NON_CANONICAL),
        (0xC0000103, 1 << 32),
        (0xDA0, 1 << 8),
    ],
)
def test_refused_value(kernel: Bench, index: int, value: int) -> None:
    before = rdmsr(kernel, index)
    assert wrmsr(kernel, index, value) == EMU_FAULT
    assert kernel.fault() == (GP, 0)
    assert rdmsr(kernel, index) == before


@pytest.mark.parametrize(
    "index",
    [0x11, 0x186, 0x198, 0x19C, 0x214, 0x251, 0x26A + 6, 0x345, 0x38F, 0x480, 0x606, 0x770,
     0x802, 0xC0000104, 0xC0010015, 0x4B564D00, 0x40000000, 0xFFFFFFFF],
)  # fmt: skip
def test_unknown_register(kernel: Bench, index: int) -> None:
    assert rdmsr(kernel, index) is None
    assert wrmsr(kernel, index, 0) == EMU_FAULT
    assert kernel.fault() == (GP, 0)


@pytest.mark.parametrize("op", [Op.OP_RDMSR, Op.OP_WRMSR])
def test_privileged(user: Bench, op: int) -> None:
    user.set(rcx=0x10)
    assert user.run(op) == EMU_FAULT
    assert user.fault() == (GP, 0)


def test_constants_of_the_model(kernel: Bench) -> None:
    assert rdmsr(kernel, 0x8B) == 1 << 32
    assert rdmsr(kernel, 0xCE) == 56 << 8
    assert rdmsr(kernel, 0xFE) == 0x50A
    assert rdmsr(kernel, 0x3A) == 1
    assert rdmsr(kernel, 0x179) == 0
    assert rdmsr(kernel, 0x1A0) == 0x1801
    capabilities = rdmsr(kernel, 0x10A)
    assert capabilities is not None
    for bit in (0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62):
        assert capabilities >> bit & 1


@pytest.mark.parametrize("index", [0x79, 0x8B])
def test_microcode_updates_are_ignored(kernel: Bench, index: int) -> None:
    assert wrmsr(kernel, index, 0) == EMU_NEXT
    assert rdmsr(kernel, 0x8B) == 1 << 32


@pytest.mark.parametrize("index", [0x49, 0x10B])
def test_command_registers_are_write_only(kernel: Bench, index: int) -> None:
    assert wrmsr(kernel, index, 1) == EMU_NEXT
    assert rdmsr(kernel, index) is None


@pytest.mark.parametrize("index", [0x48, 0x49, 0x10A, 0x10B])
def test_registers_of_hidden_features_do_not_exist(kernel: Bench, index: int) -> None:
    kernel.p.set_cpuid([row for row in CPUID if row[0] != 7])
    assert rdmsr(kernel, index) is None
    assert wrmsr(kernel, index, 0) == EMU_FAULT


def test_efer_lma_is_read_only(kernel: Bench) -> None:
    wrmsr(kernel, 0xC0000080, 0x900)
    assert rdmsr(kernel, 0xC0000080) == 0xD00


def test_efer_nxe_reaches_the_mmu(kernel: Bench) -> None:
    kernel.map(0x32000, 0x32000 | 3 | 1 << 63)
    assert kernel.run(Op.OP_SMSW, ea=0x32000) == EMU_NEXT
    assert wrmsr(kernel, 0xC0000080, 0x501) == EMU_FLOW
    assert kernel.run(Op.OP_SMSW, ea=0x32000) == EMU_FAULT
    assert kernel.get("exc_error") & 8


def test_misc_enable_changes_only_what_has_an_effect(kernel: Bench) -> None:
    assert wrmsr(kernel, 0x1A0, (1 << 64) - 1) == EMU_NEXT
    assert rdmsr(kernel, 0x1A0) == 0x1801 | 1 << 22 | 1 << 34
    kernel.set(rax=0, rcx=0)
    kernel.run(Op.OP_CPUID)
    assert kernel.get("rax") == 2
    kernel.set(rax=0x80000001, rcx=0)
    kernel.run(Op.OP_CPUID)
    assert not kernel.get("rdx") & 1 << 20


def test_fs_base_is_the_segments(kernel: Bench) -> None:
    wrmsr(kernel, 0xC0000100, 0x1000)
    assert kernel.p.get_segment("fs")[1] == 0x1000


# --- the local APIC


def test_apic_base_after_reset(kernel: Bench) -> None:
    assert rdmsr(kernel, 0x1B) == 0xFEE00900


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        (0xFEE00900, 0xFEE00500, False),
        (0xFEE00900, 0xFEE00901, False),
        (0xFEE00900, 0xFEE00B00, False),
        (0xFEE00900, 0xFEE00900 | 1 << 46, False),
        (0xFEE00900, 0xFEE00100, True),
        (0xFEE00100, 0xFEE00D00, False),
        (0xFEE00100, 0xFEE00900, True),
        (0xFEE00D00, 0xFEE00900, False),
        (0xFEE00D00, 0xFEE00100, True),
    ],
)
def test_apic_mode_changes(kernel: Bench, old: int, new: int, allowed: bool) -> None:
    kernel.set(apic_base=old)
    assert wrmsr(kernel, 0x1B, new) == (EMU_NEXT if allowed else EMU_FAULT)
    assert kernel.get("apic_base") == (new if allowed else old)


def test_x2apic_needs_cpuid(kernel: Bench) -> None:
    kernel.p.set_cpuid([row for row in CPUID if row[0] != 1])
    assert wrmsr(kernel, 0x1B, 0xFEE00D00) == EMU_FAULT


# --- time


def tsc(b: Bench, op: int) -> int:
    assert b.run(op) == EMU_NEXT
    return b.get("rdx") << 32 | b.get("rax")


@pytest.mark.parametrize("op", [Op.OP_RDTSC, Op.OP_RDTSCP])
def test_tsc_is_the_hosts_with_an_offset(kernel: Bench, op: int) -> None:
    kernel.set(tsc_offset=1 << 56)
    before = host_tsc()
    value = tsc(kernel, op)
    assert before <= value - (1 << 56) <= host_tsc()


def test_rdtscp_returns_tsc_aux(user: Bench) -> None:
    user.set(tsc_aux=0x1003, rcx=MASK)
    tsc(user, Op.OP_RDTSCP)
    assert user.get("rcx") == 0x1003


def test_rdtscp_and_rdpid_need_cpuid(kernel: Bench) -> None:
    kernel.p.set_cpuid(CPUID[:2])
    for op in (Op.OP_RDTSCP, Op.OP_RDPID):
        assert kernel.run(op, rm=RBX) == EMU_FAULT
        assert kernel.fault() == (UD, None)
    assert rdmsr(kernel, 0xC0000103) is None


@pytest.mark.parametrize("op", [Op.OP_RDTSC, Op.OP_RDTSCP])
def test_cr4_tsd_keeps_user_code_from_the_clock(op: int) -> None:
    user, kernel = Bench(3), Bench(0)
    user.set(cr4=user.get("cr4") | 4)
    kernel.set(cr4=kernel.get("cr4") | 4)
    assert user.run(op) == EMU_FAULT
    assert user.fault() == (GP, 0)
    assert kernel.run(op) == EMU_NEXT


def test_writing_the_tsc_moves_tsc_adjust(kernel: Bench) -> None:
    offset = kernel.get("tsc_offset")
    wrmsr(kernel, 0x10, 1000)
    assert tsc(kernel, Op.OP_RDTSC) - 1000 < 10**9
    assert kernel.get("tsc_adjust") == (kernel.get("tsc_offset") - offset) & MASK


def test_writing_tsc_adjust_moves_the_tsc(kernel: Bench) -> None:
    wrmsr(kernel, 0x3B, 5000)
    wrmsr(kernel, 0x3B, 3000)
    assert kernel.get("tsc_offset") == 3000


@pytest.mark.parametrize("cpl", [0, 3])
def test_rdpmc_has_no_counters(cpl: int) -> None:
    b = Bench(cpl)
    b.set(cr4=b.get("cr4") | 0x100)
    assert b.run(Op.OP_RDPMC) == EMU_FAULT
    assert b.fault() == (GP, 0)


def test_rdpid_is_unprivileged(user: Bench) -> None:
    user.set(tsc_aux=0x2001, rbx=MASK)
    assert user.run(Op.OP_RDPID, rm=RBX) == EMU_NEXT
    assert user.get("rbx") == 0x2001
