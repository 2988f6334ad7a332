"""Windows: which memory appears at the host address of a linear address, and with which rights."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlet_probes.mmu import Probe
from tests.unit.mmu.guest import (
    CR0,
    CR0_WP,
    CR4_PAE,
    DIRECT,
    EFER_LONG,
    EFER_NXE,
    FAULT,
    GIB,
    GP,
    MIB,
    MMIO,
    OK,
    PAGE,
    PF,
    PF_P,
    PF_U,
    PF_W,
    READ,
    WRITE,
    A,
    D,
    G,
    Guest,
    P,
    U,
    W,
    is_canonical,
    peek,
)

AT = 0x0000_1234_5678_9000
DATA = 8 * MIB


def test_window_shows_the_page(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    data = guest.fill(DATA, b"guest page ")

    assert guest.load(AT, PAGE) == data


def test_store_through_the_window_reaches_ram(guest: Guest) -> None:
    guest.tables.map(AT, DATA)

    assert guest.store(AT + 8, b"stored")
    assert guest.probe.read_phys(DATA + 8, 6) == b"stored"


def test_slot_without_a_mapping_stays_poison(guest: Guest) -> None:
    result = guest.reach(AT, write=True)

    assert result == FAULT
    assert guest.probe.exception == (PF, PF_W, AT)
    assert guest.probe.regions() == []


def test_slot_fault_of_a_non_canonical_address_is_gp(guest: Guest) -> None:
    assert guest.probe.slot_fault(0x8000_0000_0000, READ) == FAULT
    assert guest.probe.exception[:2] == (GP, 0)


def test_fault_inside_a_region_is_the_guests(guest: Guest) -> None:
    guest.tables.map(AT, DATA, P | U)
    guest.load(AT)

    result = guest.reach(AT, write=True)

    assert result == FAULT
    assert guest.probe.exception == (PF, PF_P | PF_W, AT)


def test_guard_is_not_a_window(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.load(AT)
    base = guest.probe.regions()[0]

    assert guest.probe.shadow_fault(base - 1, READ)[0] == -1
    assert guest.probe.shadow_fault(base + 64 * GIB, READ)[0] == -1
    assert guest.probe.shadow_fault(0x1000, READ)[0] == -1


def test_guards_reach_40_gib_on_both_sides(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.load(AT)
    base = guest.probe.regions()[0]
    start, end = base - 40 * GIB, base + 104 * GIB

    with Path("/proc/self/maps").open() as maps:
        spans = [(line.split()[0].split("-"), line.split()[1]) for line in maps]
    inside = [
        (max(int(low, 16), start), min(int(high, 16), end), rights)
        for (low, high), rights in spans
        if int(low, 16) < end and int(high, 16) > start
    ]

    assert sum(high - low for low, high, _ in inside) == end - start
    assert [(high - low) for low, high, rights in inside if rights[0] == "r"] == [PAGE]


def test_clean_page_is_shown_read_only_until_written(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA)
    guest.load(AT)
    clean = guest.writable(AT)
    entry = guest.probe.entry(at)

    assert guest.store(AT, b"x")
    assert not clean
    assert entry & (A | D) == A
    assert guest.probe.entry(at) & (A | D) == A | D
    assert guest.writable(AT)


def test_dirty_page_is_writable_from_the_first_read(guest: Guest) -> None:
    guest.tables.map(AT, DATA, P | W | U | A | D)
    guest.load(AT)

    assert guest.writable(AT)


def test_mmio_is_reported_and_never_mapped(guest: Guest) -> None:
    guest.tables.map(AT, 0xFEE0_0000)

    assert guest.reach(AT + 0x20) == MMIO
    assert guest.probe.mmio == (0xFEE0_0020, AT + 0x20)
    assert guest.shown(AT) is None


def test_run_takes_accessed_neighbours_with_contiguous_frames(guest: Guest) -> None:
    guest.tables.map_range(AT, DATA, 8, P | W | U | A | D)

    guest.load(AT + 3 * PAGE)

    assert [guest.shown(AT + i * PAGE) is not None for i in range(-1, 9)] == (
        [False] + [True] * 8 + [False]
    )
    assert guest.probe.counters()["shadow_faults"] == 0


@pytest.mark.parametrize(
    ("flags", "frame"),
    [
        (P | W | U, 1),
        (P | U | A, 1),
        (P | W | A | D, 1),
        (P | W | U | A, 1),
        (P | W | U | A | D, 2),
        (W | U | A | D, 1),
    ],
    ids=["not accessed", "read-only", "supervisor", "clean", "another frame", "not present"],
)
def test_run_stops_at(guest: Guest, flags: int, frame: int) -> None:
    guest.tables.map(AT, DATA, P | W | U | A | D)
    guest.tables.map(AT + PAGE, DATA + frame * PAGE, flags)

    guest.load(AT)

    assert guest.shown(AT + PAGE) is None


def test_run_stops_where_ram_ends() -> None:
    guest = Guest(16 * MIB)
    guest.tables.map_range(AT, 16 * MIB - 2 * PAGE, 4, P | W | U | A | D)

    guest.load(AT)

    assert guest.shown(AT + PAGE) is not None
    assert guest.shown(AT + 2 * PAGE) is None
    assert guest.reach(AT + 2 * PAGE) == MMIO


def test_direct_map_of_large_pages_takes_one_fault_a_gib() -> None:
    guest = Guest(2 * GIB)
    for i in range(1024):
        guest.tables.map(DIRECT + i * 2 * MIB, i * 2 * MIB, P | W | A | D | G, 2)
    guest.probe.write_phys(2 * GIB - 8, b"the end!")

    first = guest.load(DIRECT + GIB - 8)
    last = guest.load(DIRECT + 2 * GIB - 8)

    assert first == bytes(8)
    assert last == b"the end!"
    assert guest.probe.counters()["shadow_faults"] == 1
    assert guest.probe.counters()["shadow_pages"] == 2 * GIB // PAGE


def test_1_gib_pages_are_limited_to_ram() -> None:
    guest = Guest(GIB + 16 * MIB)
    for i in range(2):
        guest.tables.map(DIRECT + i * GIB, i * GIB, P | W | A | D, 3)
    guest.probe.write_phys(GIB + 16 * MIB - 8, b"the end!")

    assert guest.load(DIRECT + 5) is not None
    assert guest.load(DIRECT + GIB + 16 * MIB - 8) == b"the end!"
    assert guest.reach(DIRECT + GIB + 16 * MIB) == MMIO


def test_ram_above_4_gib_is_the_rest() -> None:
    guest = Guest(3 * GIB + 16 * MIB)
    guest.tables.map(AT, 4 * GIB + 15 * MIB)
    data = guest.fill(4 * GIB + 15 * MIB, b"high memory ")

    assert guest.load(AT, PAGE) == data
    assert not guest.probe.has_ram(3 * GIB)
    assert not guest.probe.has_ram(4 * GIB + 16 * MIB)


def test_eight_gib_of_ram() -> None:
    probe = Probe(8 * GIB)

    assert probe.write_phys(9 * GIB - 3, b"end")
    assert probe.read_phys(9 * GIB - 3, 3) == b"end"
    assert not probe.write_phys(9 * GIB - 3, b"ends")


@pytest.mark.parametrize("size", [0, 4097, -4096])
def test_bad_ram_sizes_are_refused(size: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        Probe(size)


# --- privilege


def test_user_table_has_no_kernel_half(guest: Guest) -> None:
    guest.tables.map(DIRECT, DATA, P | W | A | D)
    guest.load(DIRECT)
    guest.probe.cpl = 3

    result = guest.reach(DIRECT)

    assert result == FAULT
    assert guest.probe.exception == (PF, PF_P | PF_U, DIRECT)
    assert not is_canonical(guest.probe.host(DIRECT, True))


def test_user_page_in_the_upper_half_is_shown_to_users_alone(guest: Guest) -> None:
    """A vsyscall page is mapped like this."""
    data = guest.fill(DATA, b"vsyscall ")
    guest.tables.map(0xFFFF_FFFF_FF60_0000, DATA, P | U)
    guest.tables.map(0xFFFF_FFFF_8100_0000, DATA + PAGE, P | W)
    guest.load(0xFFFF_FFFF_8100_0000)
    guest.probe.cpl = 3

    shown = guest.load(0xFFFF_FFFF_FF60_0000, PAGE)
    kernel = guest.reach(0xFFFF_FFFF_8100_0000)

    assert shown == data
    assert kernel == FAULT
    assert len(guest.probe.regions()) == 2


def test_low_slot_of_user_pages_is_shared(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.load(AT)
    guest.probe.cpl = 3

    assert guest.shown(AT) is not None
    assert guest.probe.host(AT, True) == guest.probe.host(AT, False)


def test_user_first_then_kernel_share_too(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.tables.map(AT + PAGE, DATA + 8 * PAGE)
    guest.probe.cpl = 3
    guest.load(AT)
    guest.probe.cpl = 0

    assert guest.load(AT + PAGE) is not None
    assert len(guest.probe.regions()) == 1


def test_supervisor_page_in_a_shared_slot_splits_it(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.tables.map(AT + PAGE, DATA + 8 * PAGE, P | W)
    secret = guest.fill(DATA + 8 * PAGE, b"secret ")
    guest.load(AT)
    kernel_host = guest.probe.host(AT)

    seen = guest.load(AT + PAGE, PAGE)
    guest.probe.cpl = 3
    user = guest.load(AT)
    user_result = guest.reach(AT + PAGE)

    assert seen == secret
    assert guest.probe.host(AT) == kernel_host
    assert user is not None
    assert user_result == FAULT
    assert guest.shown(AT + PAGE) is None
    assert guest.probe.host(AT, True) != kernel_host


def test_write_without_wp_splits_and_users_still_cannot(guest: Guest) -> None:
    guest.tables.map(AT, DATA, P | U | A)
    guest.load(AT)
    tables = guest.tables.root
    guest.set(cr0=CR0 & ~CR0_WP, cr3=tables, cr4=CR4_PAE, efer=EFER_LONG | EFER_NXE)

    stored = guest.store(AT, b"patched")
    guest.probe.cpl = 3
    user = guest.reach(AT, write=True)
    shown = guest.load(AT, 7)

    assert stored
    assert user == FAULT
    assert shown == b"patched"
    assert not guest.writable(AT)


def test_wp_set_again_takes_back_what_it_allowed(guest: Guest) -> None:
    guest.tables.map(AT, DATA, P | A)
    efer, root = EFER_LONG | EFER_NXE, guest.tables.root
    guest.set(cr0=CR0 & ~CR0_WP, cr3=root, cr4=CR4_PAE, efer=efer)
    assert guest.store(AT, b"patched")

    guest.set(cr0=CR0, cr3=root, cr4=CR4_PAE, efer=efer)

    assert guest.reach(AT, write=True) == FAULT
    assert guest.load(AT, 7) == b"patched"


# --- prefill


def test_prefill_maps_for_the_touch_to_come(guest: Guest) -> None:
    guest.tables.map(AT, DATA, P | W | U | A | D)

    guest.probe.prefill(AT, WRITE)

    assert guest.writable(AT)


def test_prefill_never_sets_dirty(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA)

    guest.probe.prefill(AT, WRITE)

    assert not guest.probe.entry(at) & D
    assert not guest.writable(AT)


def test_prefill_of_nothing_raises_nothing(guest: Guest) -> None:
    before = guest.probe.exception

    guest.probe.prefill(AT, READ)
    guest.probe.prefill(0x8000_0000_0000, READ)

    assert guest.probe.exception == before
    assert guest.probe.regions() == []


# --- robustness


def test_page_that_is_mapped_right_is_mapped_again(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.load(AT)

    result, linear = guest.probe.shadow_fault(guest.probe.host(AT), READ)

    assert (result, linear) == (OK, AT)
    assert guest.shown(AT) is not None


def test_fault_that_never_ends_is_handed_back(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.load(AT)
    host = guest.probe.host(AT)

    results = [guest.probe.shadow_fault(host, READ)[0] for _ in range(40)]

    assert -1 in results


def test_table_replaced_without_a_flush_is_followed(guest: Guest) -> None:
    """A miss always walks the guest's current tables."""
    guest.tables.map(AT, DATA)
    guest.load(AT)
    pde = guest.tables.where(AT, 2)
    guest.fill(DATA + 8 * PAGE, b"new ")
    guest.probe.set_entry(pde, 0)
    guest.tables.map(AT + PAGE, DATA + 8 * PAGE)

    assert guest.load(AT + PAGE, 4) == b"new "
    assert guest.shown(AT) is None


def test_two_machines_do_not_see_each_other() -> None:
    one, two = Guest(), Guest()
    one.tables.map(AT, DATA)
    two.tables.map(AT, DATA)
    one.fill(DATA, b"one ")
    two.fill(DATA, b"two ")

    assert (one.load(AT, 4), two.load(AT, 4)) == (b"one ", b"two ")
    assert one.probe.host(AT) != two.probe.host(AT)
    host = two.probe.host(AT)
    del two
    assert peek(host, 1) is None
    assert one.load(AT, 4) == b"one "


def test_paging_off_shows_all_ram_at_once() -> None:
    guest = Guest()
    guest.set(cr0=1, cr3=0, cr4=0, efer=0)
    guest.probe.write_phys(64 * MIB - 4, b"last")

    assert guest.load(0x7C00) is not None
    assert guest.shown(64 * MIB - 4, 4) == b"last"
    assert guest.reach(0xFEE0_0000) == MMIO
    assert guest.probe.shadow_fault(guest.probe.host(0) + 4 * GIB, READ)[0] == -1


def test_32_bit_paging_fills_windows() -> None:
    guest = Guest()
    guest.probe.write_phys(0x5000 + 0x300 * 4, (0x6000 | P | W).to_bytes(4, "little"))
    guest.probe.write_phys(0x6000 + 0x201 * 4, (DATA | P | W).to_bytes(4, "little"))
    data = guest.fill(DATA, b"page of a 32-bit guest ")
    guest.set(cr0=CR0, cr3=0x5000, cr4=0, efer=0)

    assert guest.load(0xC020_1000, PAGE) == data
    guest.probe.write_phys(0x6000 + 0x201 * 4, bytes(4))
    guest.probe.load_cr3(0x5000)
    assert guest.shown(0xC020_1000) is None


def test_run_of_1_gib_pages_ends_with_its_slot() -> None:
    """The next page is in the same table and the next frame, but in another slot."""
    guest = Guest(3 * GIB)
    last = 64 * GIB - GIB
    for i in range(2):
        guest.tables.map(last + i * GIB, i * GIB, P | W | U | A, 3)
    guest.fill(GIB, b"behind")

    assert guest.load(last + GIB - 8) is not None
    assert peek(guest.probe.host(last, False) + GIB, 8) is None
    assert guest.load(last + GIB, 6) == b"behind"
