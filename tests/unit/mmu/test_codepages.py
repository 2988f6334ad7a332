"""Pages with translated code are not writable in any window."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.mmu.guest import DIRECT, GIB, MIB, OK, PAGE, A, D, G, Guest, P, U, W

AT = 0x0000_1234_5678_9000
DATA = 8 * MIB


def rights_at(host: int) -> str:
    """Return the host's rights of a page from /proc/self/maps."""
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            if low <= host < high:
                return line.split()[1]
    return ""


def test_accessed_and_dirty_bits_change_a_table_that_is_code(guest: Guest) -> None:
    entry = guest.tables.map(AT, DATA)
    guest.probe.protect_code(entry & -PAGE)

    guest.store(AT, b"x")

    assert guest.probe.entry(entry) & (A | D) == A | D
    assert guest.probe.hooks()[1] == [entry & -PAGE]


def test_protect_takes_write_rights_in_every_window(guest: Guest) -> None:
    first, second = guest.tables, guest.new_tables(guest.tables)
    first.map(AT, DATA)
    second.map(AT + PAGE, DATA)
    guest.store(AT, b"x")
    hosts = [guest.probe.host(AT)]
    guest.probe.load_cr3(second.root)
    guest.store(AT + PAGE, b"y")
    hosts.append(guest.probe.host(AT + PAGE))
    before = [rights_at(host) for host in hosts]

    guest.probe.protect_code(DATA)

    assert before == ["rw-s"] * 2
    assert [rights_at(host) for host in hosts] == ["r--s"] * 2


@pytest.mark.parametrize("level", [1, 2])
def test_page_at_many_places_stays_where_it_was_touched_last(guest: Guest, level: int) -> None:
    places = [AT + i * 2 * MIB & ~(2 * MIB - 1) for i in range(100)]
    for at in places:
        guest.tables.map(at, DATA, P | W | U | A | D, level)
        guest.store(at, b"x")
    hosts = [guest.probe.host(at) for at in places]

    guest.probe.protect_code(DATA)

    assert [rights_at(host) for host in hosts] == ["---p"] * 68 + ["r--s"] * 32
    assert [guest.load(at, 1) for at in places[:3]] == [b"x"] * 3
    assert guest.store(places[0], b"y")
    assert guest.probe.hooks()[1] == [DATA]
    assert rights_at(hosts[-1]) == "rw-s"


@pytest.mark.parametrize(("level", "base"), [(2, DATA), (3, 0)])
def test_protect_reaches_into_large_pages(level: int, base: int) -> None:
    guest = Guest(GIB)
    guest.tables.map(DIRECT + base, base, P | W | A | D | G, level)
    guest.load(DIRECT + base)
    page = DATA + 5 * PAGE

    guest.probe.protect_code(page)

    rights = [rights_at(guest.probe.host(DIRECT + page + i * PAGE)) for i in (-1, 0, 1)]
    assert rights == ["rw-s", "r--s", "rw-s"]


@pytest.mark.parametrize("level", [1, 2])
def test_pages_already_protected_are_mapped_so(guest: Guest, level: int) -> None:
    guest.probe.protect_code(DATA)
    guest.tables.map(DIRECT, DATA, P | W | A | D | G, level)
    guest.load(DIRECT)

    assert rights_at(guest.probe.host(DIRECT)) == "r--s"


def test_run_holds_no_code_page(guest: Guest) -> None:
    guest.probe.protect_code(DATA + PAGE)
    guest.tables.map_range(AT, DATA, 3, P | W | U | A | D)
    guest.load(AT)

    assert guest.writable(AT)
    assert not guest.writable(AT + PAGE)


@pytest.mark.parametrize("level", [1, 2])
def test_store_calls_the_hook_and_goes_through(guest: Guest, level: int) -> None:
    guest.tables.map(DIRECT, DATA, P | W | A | D | G, level)
    guest.load(DIRECT)
    guest.probe.protect_code(DATA)

    stored = guest.store(DIRECT + 16, b"new code")

    assert stored
    assert guest.probe.hooks()[1] == [DATA]
    assert guest.probe.read_phys(DATA + 16, 8) == b"new code"
    assert rights_at(guest.probe.host(DIRECT)) == "rw-s"


def test_loads_of_code_pages_call_no_hook(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.probe.protect_code(DATA)

    assert guest.load(AT) is not None
    assert guest.probe.hooks()[1] == []


def test_second_store_is_free(guest: Guest) -> None:
    guest.tables.map(AT, DATA, P | W | U | A | D)
    guest.load(AT)
    guest.probe.protect_code(DATA)
    guest.store(AT, b"x")
    faults = guest.probe.counters()["shadow_faults"]
    guest.store(AT, b"y")

    assert faults == 1
    assert guest.probe.counters()["shadow_faults"] == 1


def test_protecting_again_works(guest: Guest) -> None:
    guest.tables.map(AT, DATA, P | W | U | A | D)
    guest.load(AT)
    stored = []
    for _ in range(40):
        guest.probe.protect_code(DATA)
        stored.append(guest.store(AT, b"x"))

    assert stored == [True] * 40
    assert guest.probe.hooks()[1] == [DATA] * 40


def test_physical_write_calls_the_hook_for_each_code_page(guest: Guest) -> None:
    guest.probe.protect_code(DATA)
    guest.probe.protect_code(DATA + 2 * PAGE)

    assert guest.probe.write_phys(DATA + 8, bytes(3 * PAGE))
    assert guest.probe.hooks()[1] == [DATA, DATA + 2 * PAGE]


def test_linear_write_calls_the_hook(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.probe.protect_code(DATA)

    assert guest.probe.write(AT + 5, b"patch") == OK
    assert guest.probe.hooks()[1] == [DATA]


def test_unprotect_gives_write_rights_back(guest: Guest) -> None:
    guest.tables.map(DIRECT, DATA, P | W | A | D | G, 2)
    guest.load(DIRECT)
    guest.probe.protect_code(DATA + PAGE)
    guest.probe.unprotect_code(DATA + PAGE)

    assert guest.writable(DIRECT + PAGE)
    assert guest.probe.hooks()[1] == []


def test_unprotect_gives_no_rights_the_guest_did_not(guest: Guest) -> None:
    guest.tables.map(AT, DATA, P | U | A)
    guest.load(AT)
    guest.probe.protect_code(DATA)
    guest.probe.unprotect_code(DATA)

    assert not guest.writable(AT)


def test_protection_outlives_a_change_of_mapping(guest: Guest) -> None:
    at = guest.tables.map(AT, 9 * MIB, P | W | U | A | D)
    guest.load(AT)
    guest.probe.protect_code(DATA)
    guest.probe.set_entry(at, DATA | P | W | U | A | D)
    guest.probe.invlpg(AT)

    assert guest.shown(AT) is not None
    assert not guest.writable(AT)


def test_pages_outside_ram_are_ignored(guest: Guest) -> None:
    guest.probe.protect_code(0xFEE0_0000)
    guest.probe.unprotect_code(0xFEE0_0000)

    assert guest.probe.hooks() == ([], [], [])


def test_chains_survive_drops_in_any_order(guest: Guest) -> None:
    """One frame has many addresses; the middle, the first and the last mapping are removed."""
    entries = [guest.tables.map(AT + i * PAGE, DATA, P | W | U | A | D) for i in range(7)]
    for i in range(7):
        guest.load(AT + i * PAGE)
    for i in (3, 6, 0):
        guest.probe.set_entry(entries[i], 0)
        guest.probe.invlpg(AT + i * PAGE)
    guest.probe.protect_code(DATA)

    assert [guest.shown(AT + i * PAGE) is not None for i in range(7)] == (
        [False, True, True, False, True, True, False]
    )
    assert not any(guest.writable(AT + i * PAGE) for i in (1, 2, 4, 5))


def test_chains_survive_neighbours_that_go_and_come_back_elsewhere(guest: Guest) -> None:
    entries = [guest.tables.map(AT + i * PAGE, DATA, P | W | U | A | D) for i in range(7)]
    for i in range(7):
        guest.load(AT + i * PAGE)
    for i in (3, 2, 6, 5):
        guest.probe.set_entry(entries[i], (9 * MIB + i * 2 * PAGE) | P | W | U | A | D)
        guest.probe.invlpg(AT + i * PAGE)
    guest.probe.protect_code(DATA)

    assert [guest.writable(AT + i * PAGE) for i in range(7)] == (
        [False, False, True, True, False, True, True]
    )
