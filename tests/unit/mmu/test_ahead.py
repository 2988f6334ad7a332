"""Pages mapped ahead of their use: they are faster to map, but not accessible before that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.mmu.guest import AT, DATA, OTHER, PAGE, Guest, P, Tables, U, W, reload

AHEAD = 63  # pages, AHEAD_MAX of ringlet.mmu.layout


def spans(guest: Guest) -> list[tuple[int, int, str]]:
    """Return the host's mappings in the windows: start, end, rights."""
    counters = guest.probe.counters()
    low, high = counters["arena"], counters["arena"] + counters["arena_size"]
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
        span, rights, *_ = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if low <= start < high and not (rights == "---p" and end - start >= 1 << 36):
            found.append((start, end, rights))
    return found


def ahead(guest: Guest) -> list[tuple[int, int]]:
    """Return the guest RAM in AT's slot that is mapped without rights: linear address, pages."""
    base = guest.probe.host(AT, guest.probe.cpl == 3) - AT
    return [
        (start - base, (end - start) // PAGE)
        for start, end, rights in spans(guest)
        if rights == "---s"
    ]


def touch(guest: Guest, page: int, frame: int) -> None:
    """Map a page as a kernel does for a program's first store to it."""
    guest.tables.map(AT + page * PAGE, frame)
    assert guest.store(AT + page * PAGE, page.to_bytes(2, "little"))


def grow(guest: Guest, pages: int) -> None:
    """Make `count` first stores in sequence."""
    for page in range(pages):
        touch(guest, page, DATA + page * PAGE)


@pytest.mark.parametrize(
    ("touched", "expected"),
    [(1, 0), (2, 1), (3, 0), (4, 3), (7, 0), (8, 7), (15, 0), (16, 15), (64, 55), (120, AHEAD)],
)
def test_sequence_has_ahead_at_most_what_it_has_had(
    guest: Guest, touched: int, expected: int
) -> None:
    grow(guest, touched)

    assert ahead(guest) == ([(AT + touched * PAGE, expected)] if expected else [])
    for page in range(AHEAD):
        assert guest.shown(AT + (touched + page) * PAGE) is None


def test_pages_of_a_sequence_are_the_guests_own(guest: Guest) -> None:
    for page in range(100):
        touch(guest, page, DATA + page * PAGE)
        assert guest.shown(AT + (page + 1) * PAGE) is None

    for page in range(100):
        assert guest.probe.read_phys(DATA + page * PAGE, 2) == page.to_bytes(2, "little")
        assert guest.shown(AT + page * PAGE, 2) == page.to_bytes(2, "little")


def test_page_ahead_with_another_frame_shows_that_frame(guest: Guest) -> None:
    grow(guest, 2)
    contents = guest.fill(OTHER, b"elsewhere ")

    guest.tables.map(AT + 2 * PAGE, OTHER)

    assert guest.load(AT + 2 * PAGE, PAGE) == contents
    assert guest.shown(AT + 3 * PAGE) is None


def test_page_ahead_of_a_read_only_entry_is_not_to_be_written(guest: Guest) -> None:
    grow(guest, 2)
    contents = guest.fill(DATA + 2 * PAGE, b"to be read ")

    guest.tables.map(AT + 2 * PAGE, DATA + 2 * PAGE, P | U)

    assert guest.load(AT + 2 * PAGE, PAGE) == contents
    assert not guest.writable(AT + 2 * PAGE)


def test_page_ahead_that_holds_code_is_not_to_be_written(guest: Guest) -> None:
    grow(guest, 2)

    guest.probe.protect_code(DATA + 2 * PAGE)
    guest.tables.map(AT + 2 * PAGE, DATA + 2 * PAGE)

    assert guest.load(AT + 2 * PAGE) is not None
    assert not guest.writable(AT + 2 * PAGE)


def test_what_is_mapped_already_is_not_overwritten(guest: Guest) -> None:
    contents = guest.fill(OTHER, b"was here before ")
    guest.tables.map(AT + 18 * PAGE, OTHER)
    guest.load(AT + 18 * PAGE)

    grow(guest, 16)

    assert ahead(guest) == [(AT + 16 * PAGE, 2)]
    assert guest.shown(AT + 18 * PAGE, PAGE) == contents


def test_sequence_ends_with_the_guests_table_and_goes_on_in_the_next(guest: Guest) -> None:
    first = (512 - (AT >> 12 & 511)) - 18  # the first of this table's last eighteen
    for page in range(first, first + 16):
        touch(guest, page, DATA + page * PAGE)
    assert ahead(guest) == [(AT + (first + 16) * PAGE, 2)]

    for page in range(first + 16, first + 19):
        touch(guest, page, DATA + page * PAGE)

    assert ahead(guest) == [(AT + (first + 19) * PAGE, 18)]


def test_sequence_ends_with_guest_ram() -> None:
    guest = Guest(16 << 20)
    for page in range(4):
        touch(guest, page, (16 << 20) - (5 - page) * PAGE)
    assert ahead(guest) == [(AT + 4 * PAGE, 1)]

    touch(guest, 4, (16 << 20) - PAGE)

    assert ahead(guest) == []


def test_sequence_across_the_hole_for_devices() -> None:
    guest = Guest((3 << 30) + (16 << 20))
    for page in range(20):
        frame = (3 << 30) - (10 - page) * PAGE
        touch(guest, page, frame if page < 10 else frame + (1 << 30))
        assert guest.shown(AT + (page + 1) * PAGE) is None

    for page in range(20):
        assert guest.shown(AT + page * PAGE, 2) == page.to_bytes(2, "little")
    assert guest.probe.read_phys(4 << 30, 2) == b"\x0a\0"


def test_unmapping_around_pages_ahead_unmaps_them(guest: Guest) -> None:
    guest.tables.map(AT + 30 * PAGE, OTHER)
    guest.load(AT + 30 * PAGE)
    grow(guest, 2)
    assert ahead(guest)

    for page in (0, 1, 30):
        guest.tables.map(AT + page * PAGE, 0, 0)
    reload(guest)

    assert ahead(guest) == []
    assert guest.shown(AT) is None
    touch(guest, 2, DATA + 2 * PAGE)
    assert guest.probe.read_phys(DATA + 2 * PAGE, 2) == b"\2\0"


@pytest.mark.parametrize("page", [16, 17, 16 + 15 - 1])
def test_page_mapped_among_those_ahead_ends_them(guest: Guest, page: int) -> None:
    grow(guest, 16)
    assert ahead(guest) == [(AT + 16 * PAGE, 15)]

    touch(guest, page, OTHER)

    assert ahead(guest) == []
    for later in range(16, 16 + 15):
        if later != page:
            touch(guest, later, DATA + later * PAGE)
            assert guest.probe.read_phys(DATA + later * PAGE, 2) == later.to_bytes(2, "little")
    assert guest.shown(AT + page * PAGE, 2) == page.to_bytes(2, "little")


def address_space(guest: Guest) -> Tables:
    tables = guest.new_tables()
    guest.tables = tables
    guest.probe.load_cr3(tables.root)
    return tables


@pytest.mark.parametrize("pages", [2, 5, 17, 40])
def test_host_has_no_more_mappings_than_are_counted(pages: int) -> None:
    guest = Guest(maps_limit=600)
    for space in range(40):
        for page in range(pages):
            touch(guest, page, DATA + ((space * 7 + page) % 512) * PAGE)
            touch(guest, page + 1000, DATA + (page * 2 % 512) * PAGE)
        assert len(spans(guest)) <= guest.probe.counters()["maps"] <= 600
        address_space(guest)


def test_growing_in_two_places_goes_on(guest: Guest) -> None:
    for page in range(50):
        touch(guest, page, DATA + page * PAGE)
        touch(guest, page + 2000, OTHER + page * PAGE)

    for page in range(50):
        assert guest.shown(AT + page * PAGE, 2) == page.to_bytes(2, "little")
        assert guest.shown(AT + (page + 2000) * PAGE, 2) == (page + 2000).to_bytes(2, "little")
    assert guest.shown(AT + 50 * PAGE) is None
    assert guest.shown(AT + 2050 * PAGE) is None


def test_rights_of_users_hold_ahead(guest: Guest) -> None:
    grow(guest, 2)
    assert ahead(guest)

    guest.tables.map(AT + 2 * PAGE, DATA + 2 * PAGE, P | W)
    guest.probe.cpl = 3

    assert not guest.store(AT + 2 * PAGE, b"no")
    guest.probe.cpl = 0
    assert guest.store(AT + 2 * PAGE, b"ok")
