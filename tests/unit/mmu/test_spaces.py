"""CR3 loads, global pages, INVLPG, flushes, identities, eviction."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringlet.mmu.probe import Probe
from tests.unit.mmu.guest import (
    CR0,
    CR4_PAE,
    CR4_PGE,
    DIRECT,
    EFER_LONG,
    EFER_NXE,
    FAULT,
    GIB,
    MIB,
    MMIO,
    NX,
    OK,
    PAGE,
    PF,
    PF_P,
    PF_RSVD,
    WRITE,
    A,
    D,
    G,
    Guest,
    P,
    U,
    W,
)

AT = 0x0000_1234_5678_9000
KERNEL = 0xFFFF_FFFF_8100_0000
DATA = 8 * MIB
OTHER = 9 * MIB


def reload(guest: Guest) -> None:
    guest.probe.load_cr3(guest.tables.root)


# --- changes and CR3 loads


def test_change_shows_after_cr3_load(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA)
    new = guest.fill(OTHER, b"new page ")
    guest.load(AT)
    guest.probe.set_entry(at, OTHER | P | W | U)
    reload(guest)
    dropped = guest.shown(AT)

    assert dropped is None
    assert guest.load(AT, PAGE) == new
    assert guest.probe.counters()["cr3_dropped"] == 1


def test_unchanged_page_survives_cr3_load(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.load(AT)
    reload(guest)

    assert guest.shown(AT) is not None
    assert guest.probe.counters()["cr3_dropped"] == 0


@pytest.mark.parametrize("level", [2, 3, 4])
def test_table_moved_elsewhere_is_noticed(guest: Guest, level: int) -> None:
    """The old table keeps its contents: only the upper entry tells."""
    guest.tables.map(AT, DATA)
    guest.load(AT)
    upper = guest.tables.where(AT, level)
    guest.probe.set_entry(upper, 0)
    guest.tables.map(AT, OTHER)
    new = guest.fill(OTHER, b"behind a new table ")
    reload(guest)

    assert guest.shown(AT) is None
    assert guest.load(AT, PAGE) == new


@pytest.mark.parametrize("level", [2, 3, 4])
def test_recycled_table_is_not_read_as_a_table(guest: Guest, level: int) -> None:
    """A freed table turns into data that looks like the entries it held."""
    at = guest.tables.map(AT, DATA)
    guest.load(AT)
    upper = guest.tables.where(AT, level)
    guest.probe.set_entry(upper, 0)
    guest.probe.set_entry(at, OTHER | P | W | U | A)
    reload(guest)

    assert guest.shown(AT) is None
    assert guest.reach(AT) == FAULT


@pytest.mark.parametrize("flags", [P | W, P | W | U | NX, P | W | U | G, W | U | A | D])
def test_change_of_rights_drops_the_page(guest: Guest, flags: int) -> None:
    guest.probe.cpl = 3
    at = guest.tables.map(AT, DATA, P | W | U | A | D)
    guest.load(AT)
    guest.probe.set_entry(at, DATA | flags | A | D if flags & P else DATA | flags)
    reload(guest)

    assert guest.shown(AT) is None


def test_copy_on_write_keeps_pages_readable(guest: Guest) -> None:
    """As fork does: write rights go, the page stays."""
    guest.tables.map_range(AT, DATA, 4, P | W | U | A | D)
    guest.load(AT)
    for i in range(4):
        guest.tables.map(AT + i * PAGE, DATA + i * PAGE, P | U | A | D)
    reload(guest)

    assert [guest.shown(AT + i * PAGE) is not None for i in range(4)] == [True] * 4
    assert not any(guest.writable(AT + i * PAGE) for i in range(4))
    assert guest.probe.counters()["cr3_dropped"] == 0
    assert guest.reach(AT, write=True) == FAULT


def test_dirty_cleared_by_the_guest_is_set_again(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA)
    guest.store(AT, b"x")
    guest.probe.set_entry(at, guest.probe.entry(at) & ~D)
    reload(guest)
    clean = guest.writable(AT)

    assert not clean
    assert guest.store(AT, b"y")
    assert guest.probe.entry(at) & D


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_accessed_cleared_by_the_guest_is_set_again(guest: Guest, level: int) -> None:
    guest.tables.map(AT, DATA)
    guest.load(AT)
    at = guest.tables.where(AT, level)
    guest.probe.set_entry(at, guest.probe.entry(at) & ~A)
    reload(guest)

    assert guest.load(AT) is not None
    assert guest.probe.entry(at) & A


def test_more_rights_need_no_flush(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA, P | U)
    guest.load(AT)
    guest.probe.set_entry(at, DATA | P | W | U | A)
    reload(guest)

    assert guest.shown(AT) is not None
    assert guest.store(AT, b"now writable")


def test_pages_kept_between_dropped_ones_stay(guest: Guest) -> None:
    frames = [DATA + i * 2 * PAGE for i in range(16)]
    for i, frame in enumerate(frames):
        guest.tables.map(AT + i * PAGE, frame)
        guest.load(AT + i * PAGE)
    for i in (1, 2, 3, 7, 9):
        guest.tables.map(AT + i * PAGE, OTHER)
    reload(guest)

    kept = [i for i in range(16) if guest.shown(AT + i * PAGE) is not None]
    assert kept == [0, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15]
    assert guest.probe.counters()["cr3_dropped"] == 5


def test_large_page_kept_between_dropped_tables_stays(guest: Guest) -> None:
    frame = 10 * MIB
    guest.tables.map(DIRECT, DATA)
    guest.tables.map(DIRECT + 2 * MIB, frame, P | W | A | D, 2)
    last = guest.tables.map(DIRECT + 4 * MIB, DATA + PAGE)
    for i in range(3):
        guest.load(DIRECT + i * 2 * MIB)
    guest.probe.set_entry(guest.tables.where(DIRECT, 2), 0)
    guest.probe.set_entry(last, 0)
    reload(guest)

    assert [guest.shown(DIRECT + i * 2 * MIB) is not None for i in range(3)] == [
        False,
        True,
        False,
    ]


def test_large_page_split_by_the_guest_is_noticed(guest: Guest) -> None:
    base = DIRECT
    guest.tables.map(base, DATA, P | W | A | D, 2)
    guest.load(base + 5 * PAGE)
    guest.probe.set_entry(guest.tables.where(base, 2), 0)
    guest.tables.map_range(base, OTHER & ~(2 * MIB - 1), 512, P | W | A | D)
    guest.fill((OTHER & ~(2 * MIB - 1)) + 5 * PAGE, b"split ")
    reload(guest)

    assert guest.load(base + 5 * PAGE, 6) == b"split "


def test_changes_in_an_address_space_that_is_not_loaded(guest: Guest) -> None:
    first = guest.tables
    second = guest.new_tables()
    at = first.map(AT, DATA)
    new = guest.fill(OTHER, b"changed behind its back ")
    guest.load(AT)
    guest.probe.load_cr3(second.root)
    guest.probe.set_entry(at, OTHER | P | W | U)
    guest.probe.load_cr3(first.root)

    assert guest.load(AT, PAGE) == new


def test_each_address_space_has_its_own_low_half(guest: Guest) -> None:
    first, second = guest.tables, guest.new_tables()
    first.map(AT, DATA)
    second.map(AT, OTHER)
    guest.fill(DATA, b"first ")
    guest.fill(OTHER, b"second ")
    one = guest.load(AT, 6)
    guest.probe.load_cr3(second.root)
    two = guest.load(AT, 6)
    guest.probe.load_cr3(first.root)
    faults = guest.probe.counters()["shadow_pages"]
    again = guest.load(AT, 6)

    assert (one, two, again) == (b"first ", b"second", b"first ")
    assert guest.probe.counters()["shadow_pages"] == faults


def test_slots_of_the_last_address_space_are_poison(guest: Guest) -> None:
    second = guest.new_tables()
    guest.tables.map(AT, DATA)
    guest.load(AT)
    guest.probe.load_cr3(second.root)

    assert guest.shown(AT) is None
    assert guest.reach(AT) == FAULT


# --- global pages


def test_global_page_survives_cr3_load_until_pge_toggles(guest: Guest) -> None:
    at = guest.tables.map(KERNEL, DATA, P | W | G | A | D)
    old = guest.fill(DATA, b"old ")
    new = guest.fill(OTHER, b"new ")
    guest.load(KERNEL)
    guest.probe.set_entry(at, OTHER | P | W | G | A | D)
    reload(guest)
    after_cr3 = guest.load(KERNEL, PAGE)
    efer, root = EFER_LONG | EFER_NXE, guest.tables.root
    guest.set(cr0=CR0, cr3=root, cr4=CR4_PAE, efer=efer)
    guest.set(cr0=CR0, cr3=root, cr4=CR4_PAE | CR4_PGE, efer=efer)

    assert after_cr3 == old
    assert guest.load(KERNEL, PAGE) == new


def test_global_bit_means_nothing_without_pge() -> None:
    guest = Guest(cr4=CR4_PAE)
    at = guest.tables.map(KERNEL, DATA, P | W | G | A | D)
    new = guest.fill(OTHER, b"new ")
    guest.load(KERNEL)
    guest.probe.set_entry(at, OTHER | P | W | G | A | D)
    reload(guest)

    assert guest.load(KERNEL, PAGE) == new


def test_pge_toggle_reaches_global_pages_of_other_address_spaces(guest: Guest) -> None:
    first, second = guest.tables, guest.new_tables()
    at = first.map(AT, DATA, P | W | U | G | A | D)
    new = guest.fill(OTHER, b"new ")
    guest.load(AT)
    guest.probe.load_cr3(second.root)
    guest.probe.set_entry(at, OTHER | P | W | U | G | A | D)
    efer = EFER_LONG | EFER_NXE
    guest.set(cr0=CR0, cr3=second.root, cr4=CR4_PAE, efer=efer)
    guest.set(cr0=CR0, cr3=second.root, cr4=CR4_PAE | CR4_PGE, efer=efer)
    guest.probe.load_cr3(first.root)

    assert guest.load(AT, PAGE) == new


def test_local_kernel_page_is_compared_on_cr3_load(guest: Guest) -> None:
    guest.tables.map(KERNEL, DATA, P | W | G | A | D)
    at = guest.tables.map(KERNEL + PAGE, DATA + PAGE, P | W | A | D)
    guest.load(KERNEL)
    guest.load(KERNEL + PAGE)
    guest.probe.set_entry(at, 0)
    reload(guest)

    assert guest.shown(KERNEL) is not None
    assert guest.shown(KERNEL + PAGE) is None


# --- groups


def test_upper_half_is_shared_by_spaces_that_agree(guest: Guest) -> None:
    guest.tables.map(KERNEL, DATA, P | W | G | A | D)
    second = guest.new_tables(guest.tables)
    guest.load(KERNEL)
    identity = guest.probe.space(KERNEL)
    guest.probe.load_cr3(second.root)

    assert guest.shown(KERNEL) is not None
    assert guest.probe.space(KERNEL) == identity
    assert guest.probe.space(AT) != identity


def test_accessed_bits_do_not_part_a_group(guest: Guest) -> None:
    second = guest.new_tables()
    guest.tables.map(KERNEL, DATA, P | W | G | A | D)
    top = guest.probe.entry(guest.tables.where(KERNEL, 4))
    guest.load(KERNEL)
    guest.probe.set_entry(second.where(KERNEL, 4), 0)
    guest.probe.set_entry(second.root + 511 * 8, top & ~A)
    identity = guest.probe.space(KERNEL)
    guest.probe.load_cr3(second.root)

    assert guest.probe.space(KERNEL) == identity


def test_upper_halves_that_differ_are_kept_apart(guest: Guest) -> None:
    first, second = guest.tables, guest.new_tables()
    first.map(KERNEL, DATA, P | W | G)
    second.map(KERNEL, OTHER, P | W | G)
    guest.fill(DATA, b"first ")
    guest.fill(OTHER, b"second")
    guest.probe.load_cr3(first.root)
    one = guest.load(KERNEL, 6)
    guest.probe.load_cr3(second.root)
    two = guest.load(KERNEL, 6)
    guest.probe.load_cr3(first.root)

    assert (one, two, guest.load(KERNEL, 6)) == (b"first ", b"second", b"first ")


def test_kernel_half_that_grows_in_one_space_is_not_seen_in_others(guest: Guest) -> None:
    first = guest.tables
    first.map(KERNEL, DATA, P | W | G)
    second = guest.new_tables(first)
    guest.load(KERNEL)
    guest.probe.load_cr3(second.root)
    guest.probe.load_cr3(first.root)
    first.map(DIRECT, OTHER, P | W | G)
    grown = guest.load(DIRECT)
    guest.probe.load_cr3(second.root)

    assert grown is not None
    assert guest.shown(DIRECT) is None
    assert guest.reach(DIRECT) == FAULT
    assert guest.load(KERNEL) is not None


def test_groups_are_bounded(guest: Guest) -> None:
    spaces = [guest.new_tables() for _ in range(20)]
    for i, tables in enumerate(spaces):
        tables.map(KERNEL, DATA + i * PAGE, P | W | G)
        guest.fill(DATA + i * PAGE, b"%04d" % i)
    seen = []
    for _ in range(2):
        for tables in spaces:
            guest.probe.load_cr3(tables.root)
            seen.append(guest.load(KERNEL, 4))

    assert seen == [b"%04d" % i for i in range(20)] * 2


# --- INVLPG


def test_invlpg_of_a_new_frame_maps_it_at_once(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA, P | W | U | A | D)
    new = guest.fill(OTHER, b"new frame ")
    guest.load(AT)
    guest.probe.set_entry(at, OTHER | P | W | U | A | D)
    guest.probe.invlpg(AT + 0x123)

    assert guest.shown(AT, PAGE) == new
    assert guest.writable(AT)


def test_invlpg_does_not_map_what_was_not_accessed(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA)
    guest.load(AT)
    guest.probe.set_entry(at, OTHER | P | W | U)
    guest.probe.invlpg(AT)

    assert guest.shown(AT) is None
    assert guest.probe.entry(at) == OTHER | P | W | U


def test_invlpg_does_not_show_users_a_supervisor_page(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA, P | W | U | A | D)
    guest.load(AT)
    guest.probe.set_entry(at, OTHER | P | W | A | D)
    guest.probe.invlpg(AT)
    guest.probe.cpl = 3

    assert guest.shown(AT) is None


def test_invlpg_of_a_page_gone(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA)
    guest.load(AT)
    guest.probe.set_entry(at, 0)
    guest.probe.invlpg(AT)

    assert guest.shown(AT) is None
    assert guest.probe.counters()["invlpg"] == 1


def test_invlpg_reaches_global_pages(guest: Guest) -> None:
    at = guest.tables.map(KERNEL, DATA, P | W | G | A | D)
    guest.load(KERNEL)
    guest.probe.set_entry(at, 0)
    guest.probe.invlpg(KERNEL)

    assert guest.shown(KERNEL) is None


@pytest.mark.parametrize("linear", [KERNEL, AT])
def test_invlpg_reaches_global_pages_of_other_address_spaces(guest: Guest, linear: int) -> None:
    """As the processor does: a global translation belongs to no address space."""
    first, second = guest.tables, guest.new_tables()
    at = first.map(linear, DATA, P | W | U | G | A | D)
    second.map(linear, DATA, P | W | U | G | A | D)
    new = guest.fill(OTHER, b"new ")
    reload(guest)
    guest.load(linear)
    guest.probe.load_cr3(second.root)
    guest.probe.set_entry(at, OTHER | P | W | U | G | A | D)
    guest.probe.invlpg(linear)
    reload(guest)

    assert guest.load(linear, PAGE) == new


def test_invlpg_leaves_other_pages(guest: Guest) -> None:
    guest.tables.map_range(AT, DATA, 3, P | W | U | A | D)
    guest.load(AT)
    guest.tables.map(AT + PAGE, OTHER)
    guest.probe.invlpg(AT + PAGE)

    assert guest.shown(AT) is not None
    assert guest.shown(AT + PAGE) is None
    assert guest.shown(AT + 2 * PAGE) is not None


def test_invlpg_drops_a_whole_large_page(guest: Guest) -> None:
    at = guest.tables.map(DIRECT, DATA, P | W | A | D, 2)
    guest.load(DIRECT)
    guest.probe.set_entry(at, 0)
    guest.probe.invlpg(DIRECT + MIB)

    assert guest.shown(DIRECT) is None
    assert guest.shown(DIRECT + 2 * MIB - PAGE) is None


def test_invlpg_follows_a_changed_upper_entry(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.tables.map(AT + PAGE, DATA + 8 * PAGE)
    guest.load(AT)
    guest.load(AT + PAGE)
    guest.probe.set_entry(guest.tables.where(AT, 2), 0)
    guest.probe.invlpg(AT)

    assert guest.shown(AT) is None
    assert guest.shown(AT + PAGE) is None


def test_invlpg_of_twin_regions_reaches_both(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA, P | W | U | A | D)
    guest.tables.map(AT + PAGE, DATA + 8 * PAGE, P | W | A | D)
    guest.load(AT)
    guest.load(AT + PAGE)
    guest.probe.cpl = 3
    guest.load(AT)
    guest.probe.cpl = 0
    guest.probe.set_entry(at, 0)
    guest.probe.invlpg(AT)
    kernel = guest.shown(AT)
    guest.probe.cpl = 3

    assert kernel is None
    assert guest.shown(AT) is None


def test_invlpg_of_a_non_canonical_address_does_nothing(guest: Guest) -> None:
    guest.probe.invlpg(0x8000_0000_0000)

    assert guest.probe.counters()["invlpg"] == 1


# --- instruction fetches


def test_fetch_translates_and_maps_nothing(guest: Guest) -> None:
    guest.tables.map(AT, DATA)

    assert guest.probe.fetch(AT + 7) == (OK, DATA + 7)
    assert guest.shown(AT) is None


def test_fetch_through_changed_entries_is_reported(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA)
    guest.probe.fetch(AT)
    guest.probe.set_entry(at, OTHER | P | W | U)
    reload(guest)

    assert guest.probe.hooks()[0] == [(AT, 1)]


def test_fetch_reports_are_joined_in_ranges(guest: Guest) -> None:
    guest.tables.map_range(AT, DATA, 6)
    for i in range(6):
        guest.probe.fetch(AT + i * PAGE)
    for i in (1, 2, 3, 5):
        guest.tables.map(AT + i * PAGE, OTHER)
    reload(guest)

    assert guest.probe.hooks()[0] == [(AT + PAGE, 3), (AT + 5 * PAGE, 1)]


def test_fetch_through_a_changed_upper_entry_is_reported(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.probe.fetch(AT)
    guest.probe.set_entry(guest.tables.where(AT, 3), 0)
    reload(guest)

    assert guest.probe.hooks()[0] == [(AT, 1)]


def test_fetch_from_a_large_page_reports_all_of_it(guest: Guest) -> None:
    at = guest.tables.map(KERNEL, DATA, P | W | G | A | D, 2)
    guest.probe.fetch(KERNEL + 5)
    guest.probe.set_entry(at, 0)
    guest.probe.invlpg(KERNEL + MIB)

    assert guest.probe.hooks()[0] == [(KERNEL, 512)]


def test_write_rights_do_not_concern_fetches(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA, P | W | U | A | D)
    guest.probe.fetch(AT)
    guest.load(AT)
    guest.probe.set_entry(at, DATA | P | U | A | D)
    reload(guest)
    guest.probe.invlpg(AT)

    assert guest.probe.hooks()[0] == []


def test_nx_turned_on_is_reported(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA, P | W | U | A | D)
    guest.probe.fetch(AT)
    guest.probe.set_entry(at, DATA | P | W | U | A | D | NX)
    guest.probe.invlpg(AT)

    assert guest.probe.hooks()[0] == [(AT, 1)]
    assert guest.probe.fetch(AT)[0] == FAULT


# --- flushes


def test_nxe_change_rereads_everything() -> None:
    guest = Guest()
    guest.tables.map(AT, DATA, P | W | U | NX)
    guest.load(AT)
    guest.set(cr0=CR0, cr3=guest.tables.root, cr4=CR4_PAE, efer=EFER_LONG)

    assert guest.shown(AT) is None
    assert guest.reach(AT) == FAULT
    assert guest.probe.exception == (PF, PF_P | PF_RSVD, AT)


def test_turning_paging_off_and_on_keeps_spaces_apart(guest: Guest) -> None:
    guest.tables.map(0, OTHER)
    guest.fill(OTHER, b"paged ")
    guest.fill(0, b"flat  ")
    root, efer = guest.tables.root, EFER_LONG | EFER_NXE
    paged = guest.load(0, 6)
    guest.set(cr0=1, cr3=root, cr4=CR4_PAE, efer=efer)
    flat = guest.load(0, 6)
    guest.set(cr0=CR0, cr3=root, cr4=CR4_PAE, efer=efer)

    assert (paged, flat, guest.load(0, 6)) == (b"paged ", b"flat  ", b"paged ")


# --- identities and eviction


def test_identity_belongs_to_the_root(guest: Guest) -> None:
    first, second = guest.tables, guest.new_tables()
    one = guest.probe.space(AT)
    guest.probe.load_cr3(second.root)
    two = guest.probe.space(AT)
    guest.probe.load_cr3(first.root | 0x18)  # PWT and PCD

    assert one != two
    assert guest.probe.space(AT) == one


def test_address_spaces_are_bounded_and_the_oldest_goes(guest: Guest) -> None:
    first = guest.tables
    first.map(AT, DATA)
    guest.load(AT)
    old = guest.probe.space(AT)
    guest.probe.hooks()
    for _ in range(64):
        guest.probe.load_cr3(guest.new_tables().root)
    dropped = guest.probe.hooks()[2]
    guest.probe.load_cr3(first.root)

    assert old in dropped
    assert guest.probe.space(AT) not in (old, 0)
    assert guest.load(AT) is not None


def test_hosts_mappings_are_bounded() -> None:
    guest = Guest(64 * MIB, maps_limit=2000)
    spaces = [guest.new_tables() for _ in range(8)]
    frames = list(range(16 * MIB, 60 * MIB, 2 * PAGE))
    worst = 0
    for tables in spaces:
        guest.probe.load_cr3(tables.root)
        for i in range(400):
            tables.map(AT + i * PAGE, frames[i * 7 % len(frames)])
            assert guest.reach(AT + i * PAGE) == OK
        with Path("/proc/self/maps").open() as maps:
            worst = max(worst, sum(1 for _ in maps))
    # Each page makes two mappings; whatever else the process has is not ours to bound.
    assert guest.probe.counters()["maps"] <= 2000
    assert worst < 2000 + 1000


def test_one_space_with_too_many_mappings_is_emptied_and_goes_on() -> None:
    guest = Guest(64 * MIB, maps_limit=1000)
    frames = list(range(16 * MIB, 60 * MIB, 2 * PAGE))
    for i in range(1500):
        guest.tables.map(AT + i * PAGE, frames[i])
        guest.probe.write_phys(frames[i], i.to_bytes(8, "little"))

    seen = [guest.load(AT + i * PAGE) for i in range(1500)]

    assert seen == [i.to_bytes(8, "little") for i in range(1500)]
    assert guest.probe.counters()["maps"] <= 1000


def test_more_slots_than_regions_are_handed_back_and_recovered() -> None:
    guest = Guest()
    for i in range(400):
        guest.tables.map(i << 36, DATA)
    results = [guest.reach(i << 36) for i in range(400)]
    late = next(i for i, result in enumerate(results) if result != OK)
    old = guest.probe.space(0)
    reload(guest)

    assert results[:300] == [OK] * 300
    assert results[late] == MMIO
    assert guest.probe.space(0) != old
    assert guest.reach(late << 36) == OK


def test_nodes_come_back_when_windows_go(guest: Guest) -> None:
    before = guest.probe.counters()["nodes_left"]
    for i in range(32):
        guest.tables.map(AT + i * GIB, DATA + i * PAGE)
        guest.load(AT + i * GIB)
    used = guest.probe.counters()["nodes_left"]
    guest.probe.set_entry(guest.tables.where(AT, 4), 0)
    guest.probe.set_entry(guest.tables.where(AT + 40 * GIB, 4), 0)
    reload(guest)

    assert used < before
    assert guest.probe.counters()["nodes_left"] == before


def test_out_of_date_page_is_not_written_through(guest: Guest) -> None:
    """A page taken from a process after a flush may already hold another's data."""
    at = guest.tables.map(AT, DATA)
    guest.store(AT, b"mine")
    guest.probe.set_entry(at, 0)
    reload(guest)

    assert guest.reach(AT, write=True) == FAULT
    assert guest.probe.translate(AT, WRITE)[0] == FAULT


def test_two_probes_in_one_process_have_separate_spaces() -> None:
    one, two = Probe(MIB), Probe(MIB)

    assert one.space() == two.space()
    assert one.host(0) != 0
    assert one.slots(False) == two.slots(False)
