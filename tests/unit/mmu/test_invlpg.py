"""INVLPG, and instruction fetches, whose entries are remembered."""

from __future__ import annotations

import pytest

from tests.unit.mmu.guest import (
    AT,
    DATA,
    DIRECT,
    FAULT,
    KERNEL,
    MIB,
    NX,
    OK,
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
    """A global translation belongs to no address space, as on a processor."""
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
