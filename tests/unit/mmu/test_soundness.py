"""No address a guest can form reaches host memory that is not its own.

Translated code computes  address + table[bits 51..36 of address] + displacement.  All 65,536
indices, all 4,096 values of bits 63..52, both ends of the slot, displacements up to the guards:
the sum is non-canonical, or lies in a region of the guest or its guard.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.mmu.guest import DIRECT, GIB, MIB, Guest, P, U, W

# Offset in the slot plus displacement: both ends of the slot, and the outer ends of the guards.
REACH = [0, (1 << 36) - 1, -40 * GIB, (1 << 36) - 1 + 40 * GIB]
USERS = [0x1000, 0x0000_5555_5555_4000, 0x0000_7FFF_FFFF_E000, 0x0000_7FF0_1234_5000]
KERNELS = [
    DIRECT,
    0xFFFF_8000_0000_0000,
    0xFFFF_FFFF_8100_0000,
    0xFFFF_FFFF_FFFF_F000,
    0xFFFF_C900_0000_0000,
]


@pytest.fixture(scope="module")
def busy() -> Guest:
    """Return a guest with live slots at both ends of both halves."""
    guest = Guest()
    for i, at in enumerate(USERS):
        guest.tables.map(at, (8 + i) * MIB, P | W | U)
        assert guest.load(at) is not None
    for i, at in enumerate(KERNELS):
        guest.tables.map(at, (16 + i) * MIB, P | W)
        assert guest.load(at) is not None
    return guest


def reachable_outside(slots: list[int], regions: list[int]) -> int:
    """Return how many of the sums are canonical and outside all regions with their guards."""
    index = np.arange(65536, dtype=np.uint64) << np.uint64(36)
    by_index = np.array(slots, dtype=np.uint64) + index
    starts = np.array(regions, dtype=np.uint64) - np.uint64(40 * GIB)
    low_end = np.uint64(1 << 47)
    sums = np.empty(65536, dtype=np.uint64)
    canonical = np.empty(65536, dtype=bool)
    bad = 0
    for reach in REACH:
        # An address is canonical if adding 2^47 leaves less than 2^48.
        shifted = by_index + np.uint64(reach % (1 << 64)) + low_end
        for high in range(4096):
            np.add(shifted, np.uint64(high << 52), out=sums)
            np.less(sums, np.uint64(1 << 48), out=canonical)
            if canonical.any():
                hosts = sums[canonical] - low_end
                inside = (hosts[:, None] - starts[None, :] < np.uint64(144 * GIB)).any(axis=1)
                bad += int(np.count_nonzero(~inside))
    return bad


@pytest.mark.parametrize("user", [False, True], ids=["kernel table", "user table"])
def test_every_index_and_every_high_bit(busy: Guest, user: bool) -> None:
    assert reachable_outside(busy.probe.slots(user), busy.probe.regions()) == 0


def mapped_on_a_wide_host(slots: list[int], is_window: Callable[[int], bool]) -> int:
    """Return how many sums of unused slots may be mapped where addresses have 57 bits.

    Linux maps nothing above 2^47 unless asked to; the upper half is the kernel's except the
    vsyscall page.
    """
    index = np.arange(65536, dtype=np.uint64)
    addends = np.array(slots, dtype=np.uint64)
    unused = addends == np.uint64(1 << 49) - (index << np.uint64(36))
    by_index = (addends + (index << np.uint64(36)))[unused]
    vsyscall = np.uint64(0xFFFF_FFFF_FF60_0000)
    bad = 0
    for reach in REACH:
        for high in range(4096):
            sums = by_index + np.uint64((reach + (high << 52)) % (1 << 64))
            low_half = sums < np.uint64(1 << 56)
            bad += int(np.count_nonzero(low_half & (sums < np.uint64(1 << 47))))
            bad += int(np.count_nonzero(sums - vsyscall < np.uint64(4096)))
            bad += is_window(int(sums[0])) + is_window(int(sums[-1]))
    return bad


@pytest.mark.parametrize("user", [False, True], ids=["kernel table", "user table"])
def test_unused_slots_reach_no_mapping_of_a_host_with_57_bit_addresses(
    busy: Guest, user: bool
) -> None:
    assert mapped_on_a_wide_host(busy.probe.slots(user), busy.probe.is_window) == 0


def test_nothing_is_mapped_above_47_bits(busy: Guest) -> None:
    ends = [
        int(line.split()[0].split("-")[1], 16)
        for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
        if "[vsyscall]" not in line
    ]

    assert max(ends) <= 1 << 47
    assert busy.probe.regions()


def test_faults_at_windows_and_guards_are_told_from_those_of_unused_slots(busy: Guest) -> None:
    regions = busy.probe.regions()

    inside = [base + at for base in regions for at in (0, 64 * GIB - 1, -40 * GIB, 104 * GIB - 1)]
    assert all(busy.probe.is_window(host) for host in inside)
    assert not any(busy.probe.is_window(host) for host in (0, 1 << 49, (0xF52 << 52) + (1 << 49)))
    assert not any(busy.probe.is_window(host) for host in ((1 << 64) - 1, min(regions) - (1 << 38)))


def test_a_constant_poison_would_be_caught(busy: Guest) -> None:
    constant = [0x3FFF_8002_0000_0000] * 65536

    assert reachable_outside(constant, busy.probe.regions()) > 0


def test_a_live_entry_that_leads_elsewhere_would_be_caught(busy: Guest) -> None:
    slots = busy.probe.slots(False)
    live = DIRECT >> 36 & 0xFFFF
    slots[live] = (min(busy.probe.regions()) - 64 * GIB - DIRECT) % (1 << 64)

    assert reachable_outside(slots, busy.probe.regions()) > 0


@pytest.mark.parametrize("user", [False, True], ids=["kernel table", "user table"])
def test_live_entries_lead_to_their_region(busy: Guest, user: bool) -> None:
    linears = USERS + ([] if user else KERNELS)

    hosts = [busy.probe.host(linear, user) for linear in linears]

    assert all(
        any(base <= host < base + 64 * GIB for base in busy.probe.regions()) for host in hosts
    )
    # Regions are aligned to 8 GiB.
    assert [host % (1 << 33) for host in hosts] == [linear % (1 << 33) for linear in linears]


@pytest.mark.parametrize("user", [False, True], ids=["kernel table", "user table"])
def test_negated_table_is_the_negation(busy: Guest, user: bool) -> None:
    table = busy.probe.slots(user)
    negated = busy.probe.slots(user, True)

    assert all((a + b) % (1 << 64) == 0 for a, b in zip(table, negated, strict=True))


def test_only_used_slots_are_live(busy: Guest) -> None:
    live = {
        i
        for i, addend in enumerate(busy.probe.slots(False))
        if addend != (1 << 49) - (i << 36) and addend != (1 << 64) + (1 << 49) - (i << 36)
    }

    assert live == {at >> 36 & 0xFFFF for at in USERS + KERNELS}


def test_user_table_has_no_upper_half(busy: Guest) -> None:
    upper = busy.probe.slots(True)[0x800:]

    assert all(
        addend == ((1 << 49) - (i << 36)) % (1 << 64) for i, addend in enumerate(upper, 0x800)
    )
