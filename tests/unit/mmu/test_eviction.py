"""Flushes, identities, and the bounds of everything."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path

import pytest

from ringlet_probes.mmu import Probe
from tests.unit.mmu.guest import (
    AT,
    CR0,
    CR4_PAE,
    DATA,
    EFER_LONG,
    EFER_NXE,
    FAULT,
    GIB,
    KERNEL,
    MIB,
    MMIO,
    NX,
    OK,
    OTHER,
    PAGE,
    PF,
    PF_P,
    PF_RSVD,
    WRITE,
    Guest,
    P,
    U,
    W,
    reload,
)

FAR_DATA = 48 * MIB


@pytest.fixture(scope="module", autouse=True)
def _processors_are_freed() -> None:
    """Free the processors of other tests, whose mappings and windows would be counted here."""
    gc.collect()


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
        for i in range(200):
            tables.map(AT + i * PAGE, frames[i * 7 % len(frames)])
            assert guest.reach(AT + i * PAGE) == OK
        with Path("/proc/self/maps").open() as maps:
            worst = max(worst, sum(1 for _ in maps))
    # Each page makes two mappings; other mappings of the process are not bounded here.
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


SLOTS = 1300
"""More than there are regions."""


def spread() -> Guest:
    """Return a guest with a page in each of many slots; its tables end below FAR_DATA.

    The windows need most of the address space, so guests of earlier tests must be gone.
    """
    gc.collect()
    guest = Guest()
    for i in range(SLOTS):
        guest.tables.map(i << 36, FAR_DATA)
    return guest


def test_hundreds_of_slots_have_windows_at_once() -> None:
    guest = spread()
    results = [guest.reach(i << 36) for i in range(700)]
    small = guest.probe.counters()["arena_size"]
    again = [guest.reach(i << 36) for i in range(700)]
    regions = sorted(guest.probe.regions())

    assert results == again == [OK] * 700
    assert full(guest) == {}
    assert guest.probe.counters()["arena_size"] == small
    assert min(b - a for a, b in itertools.pairwise(regions)) == 104 * GIB


def test_a_machine_leaves_room_for_the_windows_of_others() -> None:
    many = [Guest() for _ in range(3)]

    assert all(guest.probe.counters()["arena_size"] >= 8 * 104 * GIB for guest in many)
    for guest in many:
        guest.tables.map(AT, DATA)
        assert guest.reach(AT) == OK


def test_windows_of_two_machines_that_grow_stay_apart() -> None:
    guests = [spread(), spread()]
    results = [guest.reach(i << 36) for i in range(400) for guest in guests]
    regions = sorted(base for guest in guests for base in guest.probe.regions())

    assert results.count(OK) >= 500
    assert min(b - a for a, b in itertools.pairwise(regions)) >= 104 * GIB


def test_more_slots_than_regions_are_handed_back_and_recovered() -> None:
    guest = spread()
    results = [guest.reach(i << 36) for i in range(SLOTS)]
    late = next(i for i, result in enumerate(results) if result != OK)
    old = guest.probe.space(0)
    reload(guest)

    assert results[:150] == [OK] * 150
    assert results[late] == MMIO
    assert guest.probe.space(0) != old
    assert guest.reach(late << 36) == OK


def test_invlpg_tells_of_code_whose_fetch_found_no_region() -> None:
    guest = Guest()
    for i in range(SLOTS + 1):
        guest.tables.map(i << 36, FAR_DATA)
        guest.reach(i << 36)
    late = SLOTS << 36
    recorded = guest.probe.fetch(late)
    guest.probe.hooks()
    guest.tables.map(late, OTHER)
    guest.probe.invlpg(late + 1)
    unmapped, _, _ = guest.probe.hooks()

    assert recorded == (OK, FAR_DATA)
    assert any(low <= late < low + pages * PAGE for low, pages in unmapped)
    assert guest.probe.fetch(late) == (OK, OTHER)


FULL = ("spaces_full", "groups_full", "regions_full", "nodes_full", "maps_full")


def full(guest: Guest) -> dict[str, int]:
    """Return the counters of tables that were full, without those that are 0."""
    counters = guest.probe.counters()
    return {name: counters[name] for name in FULL if counters[name]}


@pytest.mark.parametrize(("more", "counted"), [(0, {}), (3, {"spaces_full": 3})])
def test_spaces_that_give_way_are_counted(guest: Guest, more: int, counted: dict[str, int]) -> None:
    for _ in range(62 + more):  # one space was loaded with paging off, one by the fixture
        guest.probe.load_cr3(guest.new_tables(upper_of=guest.tables).root)

    assert full(guest) == counted


def test_upper_halves_that_give_way_are_counted(guest: Guest) -> None:
    for i in range(1, 11):
        tables = guest.new_tables()
        tables.map(KERNEL, DATA + i * PAGE)
        guest.probe.load_cr3(tables.root)
        guest.load(KERNEL)

    assert full(guest) == {"groups_full": 11 - 8}


def test_slots_without_a_window_are_counted() -> None:
    guest = Guest()
    results = []
    for i in range(SLOTS):
        guest.tables.map(i << 36, FAR_DATA)
        results.append(guest.reach(i << 36))

    assert results.count(MMIO) > 0
    assert full(guest) == {"regions_full": results.count(MMIO)}


def test_lack_of_mappings_is_counted() -> None:
    guest = Guest(64 * MIB, maps_limit=1000)
    for i in range(300):
        guest.tables.map(AT + i * PAGE, 16 * MIB + i * 2 * PAGE)
        guest.reach(AT + i * PAGE)
    before = full(guest)
    for i in range(300, 600):
        guest.tables.map(AT + i * PAGE, 16 * MIB + i * 2 * PAGE)
        guest.reach(AT + i * PAGE)

    assert (before, full(guest)) == ({}, {"maps_full": 1})


def test_lack_of_nodes_is_counted() -> None:
    guest = Guest(256 * MIB)
    for i in range(16384):
        guest.tables.map(i * 2 * MIB, DATA)
        assert guest.reach(i * 2 * MIB) == OK

    assert full(guest)["nodes_full"] == 1


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
