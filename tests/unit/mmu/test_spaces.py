"""CR3 loads, global pages, groups."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.unit.mmu.guest import (
    AT,
    CR0,
    CR4_PAE,
    CR4_PGE,
    DATA,
    DIRECT,
    EFER_LONG,
    EFER_NXE,
    FAULT,
    KERNEL,
    MIB,
    NX,
    OTHER,
    PAGE,
    A,
    D,
    G,
    Guest,
    P,
    U,
    W,
    reload,
)

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


def test_program_is_another_if_nothing_is_left_of_the_last(guest: Guest) -> None:
    pages = [guest.tables.map(AT + i * PAGE, DATA + i * PAGE) for i in range(3)]
    for i in range(3):
        guest.load(AT + i * PAGE)
    seen = [guest.probe.program()]
    for at in pages:
        guest.probe.set_entry(at, OTHER | P | W | U)
        reload(guest)
        seen.append(guest.probe.program())
    reload(guest)
    seen.append(guest.probe.program())

    assert [b - a for a, b in pairwise(seen)] == [0, 0, 1, 0]


@pytest.mark.parametrize("level", [2, 3, 4])
def test_table_moved_elsewhere_is_noticed(guest: Guest, level: int) -> None:
    """The old table keeps its contents; only the upper entry shows the change."""
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
    """A freed table becomes data that looks like the entries it held."""
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
    """The guest removes write rights but keeps the page, as fork does."""
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
