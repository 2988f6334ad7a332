"""CPUID: range rule, subleaves, and the bits that depend on the processor's state."""

import pytest

from ringlet.core.ops import Op
from tests.unit.vcpu.bench import CPUID, EMU_NEXT, USER_CODE, Bench


def cpuid(b: Bench, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    b.set(rax=leaf | 1 << 40, rcx=subleaf | 1 << 40, rbx=-1, rdx=-1)
    assert b.run(Op.OP_CPUID, code=b"\x0f\xa2") == EMU_NEXT
    return b.get("rax"), b.get("rbx"), b.get("rcx"), b.get("rdx")


def test_row_of_the_table_at_cpl3(user: Bench) -> None:
    assert cpuid(user, 0x80000008) == (0x302E, 0, 0, 0)
    assert user.get("rip") == USER_CODE + 2


def test_subleaf_counts_only_where_it_should(user: Bench) -> None:
    assert cpuid(user, 0x80000008, 5) == (0x302E, 0, 0, 0)
    assert cpuid(user, 0xD, 2) == (256, 576, 0, 0)
    assert cpuid(user, 7, 1) == (0, 0, 0, 0)


@pytest.mark.parametrize("leaf", [0x17, 0x7FFFFFFF, 0x80000009, 0xFFFFFFFF, 0x40000001])
def test_leaf_out_of_range_answers_as_the_highest_basic_one(user: Bench, leaf: int) -> None:
    assert cpuid(user, leaf) == (0x1616, 2, 3, 4)


@pytest.mark.parametrize("leaf", [3, 0x14, 0x80000005])
def test_leaf_within_the_range_but_absent_is_zero(user: Bench, leaf: int) -> None:
    assert cpuid(user, leaf) == (0, 0, 0, 0)


def test_hypervisor_leaves_are_in_range_if_the_table_has_them(user: Bench) -> None:
    user.p.set_cpuid([*CPUID, (0x40000000, 0, 0, 0x40000010, 1, 2, 3)])
    assert cpuid(user, 0x40000000) == (0x40000010, 1, 2, 3)


def test_invalid_topology_level_returns_its_number_and_the_id(user: Bench) -> None:
    assert cpuid(user, 0xB, 7) == (0, 0, 7, 5)


def test_osxsave_follows_cr4(user: Bench) -> None:
    assert cpuid(user, 1)[2] & 1 << 27
    user.set(cr4=user.get("cr4") & ~(1 << 18))
    assert not cpuid(user, 1)[2] & 1 << 27


def test_apic_bit_follows_its_enable(user: Bench) -> None:
    assert cpuid(user, 1)[3] & 1 << 9
    user.set(apic_base=0xFEE00100)
    assert not cpuid(user, 1)[3] & 1 << 9


def test_xsave_size_follows_xcr0(user: Bench) -> None:
    assert cpuid(user, 0xD, 0)[1:3] == (832, 832)
    assert cpuid(user, 0xD, 1)[1] == 832
    user.set(xcr0=3)
    assert cpuid(user, 0xD, 0)[1:3] == (576, 832)
    assert cpuid(user, 0xD, 1)[1] == 576


def test_virtual_machine_without_a_table_answers_zero(user: Bench) -> None:
    user.p.set_cpuid([])
    assert cpuid(user, 0) == (0, 0, 0, 0)
