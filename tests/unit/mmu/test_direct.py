"""Windows in direct processes: what they show and what they run is what the guest's tables say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ringlet.direct.zygote import Zygote
from tests.unit.direct.forged import stepping_hand_over
from tests.unit.direct.guest import SIGSYS
from tests.unit.mmu.direct_guest import (
    CALLED,
    CODE,
    CODE_PHYS,
    DATA,
    DATA_PHYS,
    MMAP,
    OTHER_PHYS,
    REFUSED,
    DirectGuest,
    Stop,
    give,
    load,
    store,
)
from tests.unit.mmu.guest import FAULT, FETCH, MIB, NX, OK, PAGE, PF, WRITE, A, D, P, U, W

LARGE = 0x0000_2345_6000_0000
LARGE_PHYS = 12 * MIB


@pytest.fixture
def guest(zygote: Zygote) -> DirectGuest:
    return DirectGuest(zygote)


def invlpg(guest: DirectGuest, linear: int) -> None:
    guest.probe.invlpg(linear)


def reload(guest: DirectGuest, linear: int) -> None:
    guest.probe.load_cr3(guest.tables.root)


def other_space(guest: DirectGuest, linear: int) -> None:
    """Load another address space, and come back."""
    guest.probe.load_cr3(guest.new_tables(guest.tables).root)
    guest.probe.load_cr3(guest.tables.root)


Event = Callable[[DirectGuest, int], None]
EVENTS = pytest.mark.parametrize("event", [invlpg, reload, other_space])


# --- accessed and dirty bits


def test_a_write_sets_accessed_and_dirty(guest: DirectGuest) -> None:
    code = guest.place(CODE, CODE_PHYS, store(DATA, 0x5EED))
    data = guest.tables.map(DATA, DATA_PHYS)

    assert guest.run(CODE) == CALLED

    assert guest.probe.read_phys(DATA_PHYS, 2) == b"\xed\x5e"
    assert guest.probe.entry(data) & (A | D) == A | D
    assert guest.probe.entry(code) & (A | D) == A


@EVENTS
def test_next_write_after_dirty_was_cleared_sets_it_again(guest: DirectGuest, event: Event) -> None:
    guest.place(CODE, CODE_PHYS, store(DATA))
    data = guest.tables.map(DATA, DATA_PHYS)
    guest.run(CODE)
    guest.probe.set_entry(data, guest.probe.entry(data) & ~D)

    event(guest, DATA)
    guest.faults.clear()

    assert guest.run(CODE) == CALLED
    assert guest.faults == [(DATA, WRITE)]
    assert guest.probe.entry(data) & D


# --- changes of the tables


@EVENTS
def test_page_that_was_unmapped_faults_in_the_guest(guest: DirectGuest, event: Event) -> None:
    """As a thread sees it whose process another thread has let unmap a page."""
    guest.place(CODE, CODE_PHYS, load(DATA))
    data = guest.tables.map(DATA, DATA_PHYS)
    assert guest.value(CODE) == 0
    guest.probe.set_entry(data, 0)

    event(guest, DATA)

    assert guest.run(CODE) == Stop(answer=FAULT, linear=DATA)
    assert guest.probe.exception == (PF, U, DATA)
    assert guest.rights(DATA) == ""


@EVENTS
def test_page_that_became_read_only_is_not_written(guest: DirectGuest, event: Event) -> None:
    guest.place(CODE, CODE_PHYS, store(DATA, 1))
    data = guest.tables.map(DATA, DATA_PHYS)
    guest.run(CODE)
    guest.probe.set_entry(data, guest.probe.entry(data) & ~W)

    event(guest, DATA)

    assert guest.run(CODE) == Stop(answer=FAULT, linear=DATA)
    assert guest.probe.exception == (PF, P | W | U, DATA)


@EVENTS
def test_page_that_must_not_run_any_more_does_not(guest: DirectGuest, event: Event) -> None:
    code = guest.place(CODE, CODE_PHYS, give(1))
    guest.run(CODE)
    guest.probe.set_entry(code, guest.probe.entry(code) | NX)

    event(guest, CODE)

    assert guest.run(CODE) == Stop(answer=FAULT, linear=CODE)
    assert guest.probe.exception == (PF, P | U | FETCH, CODE)


@pytest.mark.parametrize("event", [reload, other_space])
def test_other_tables_at_the_same_cr3_show_nothing_stale(guest: DirectGuest, event: Event) -> None:
    """A program ends, and the next one's tables have its place."""
    gone = DATA + 5 * PAGE
    guest.place(CODE, CODE_PHYS, give(1))
    guest.place(CODE + PAGE, CODE_PHYS + PAGE, load(DATA))
    guest.place(CODE + 2 * PAGE, CODE_PHYS + 2 * PAGE, load(gone))
    guest.tables.map(DATA, DATA_PHYS)
    guest.tables.map(gone, DATA_PHYS)
    guest.probe.write_phys(DATA_PHYS, b"\x11" * 8)
    assert guest.value(CODE) == 1
    assert guest.value(CODE + PAGE) == guest.value(CODE + 2 * PAGE) == int("11" * 8, 16)

    for entry in range(256):
        guest.probe.set_entry(guest.tables.root + 8 * entry, 0)
    guest.place(CODE, OTHER_PHYS, give(2))
    guest.place(CODE + PAGE, OTHER_PHYS + PAGE, load(DATA))
    guest.place(CODE + 2 * PAGE, OTHER_PHYS + 2 * PAGE, load(gone))
    guest.tables.map(DATA, OTHER_PHYS + 3 * PAGE)
    guest.probe.write_phys(OTHER_PHYS + 3 * PAGE, b"\x22" * 8)
    event(guest, CODE)

    assert guest.value(CODE) == 2
    assert guest.value(CODE + PAGE) == int("22" * 8, 16)
    assert guest.run(CODE + 2 * PAGE) == Stop(answer=FAULT, linear=gone)


def test_two_spaces_with_the_same_addresses_are_apart(guest: DirectGuest) -> None:
    guest.place(CODE, CODE_PHYS, give(1))
    assert guest.value(CODE) == 1
    mine, process = guest.tables, guest.process

    guest.tables = guest.new_tables(mine)
    guest.probe.load_cr3(guest.tables.root)
    guest.process = guest.attach()
    guest.place(CODE, OTHER_PHYS, give(2))
    assert guest.value(CODE) == 2

    guest.probe.load_cr3(mine.root)
    guest.process = process
    assert guest.value(CODE) == 1


def test_process_has_nothing_of_a_space_that_it_left(guest: DirectGuest) -> None:
    guest.place(CODE, CODE_PHYS, load(DATA))
    guest.tables.map(DATA, DATA_PHYS)
    guest.value(CODE)
    assert guest.rights(CODE) and guest.rights(DATA)

    guest.probe.leave_process()
    guest.process.again()
    assert guest.process.wait()

    assert guest.rights(CODE) == guest.rights(DATA) == ""


# --- the pages around a fault


@pytest.fixture
def scattered(guest: DirectGuest) -> DirectGuest:
    """Give the guest 64 pages of data, which it has accessed before, in frames in reverse order."""
    for page in range(64):
        guest.tables.map(DATA + page * PAGE, DATA_PHYS + (63 - page) * PAGE, P | W | U | A)
    return guest


def shown_after_a_load(guest: DirectGuest, page: int) -> list[int]:
    """Return which pages of the data the process has after its code loads from one."""
    guest.place(CODE, CODE_PHYS, load(DATA + page * PAGE))
    assert guest.run(CODE) == CALLED
    return [i for i in range(64) if guest.rights(DATA + i * PAGE)]


def test_pages_around_a_fault_are_mapped_with_it(scattered: DirectGuest) -> None:
    assert shown_after_a_load(scattered, 20) == list(range(16, 32))


def test_process_that_had_too_many_mappings_gets_less_at_a_fault(scattered: DirectGuest) -> None:
    scattered.probe.crowd_process()
    scattered.process = scattered.attach()

    assert shown_after_a_load(scattered, 20) == [20]


def test_its_faults_near_each_other_map_what_is_around(scattered: DirectGuest) -> None:
    scattered.probe.crowd_process()
    scattered.process = scattered.attach()
    code = load(DATA + 20 * PAGE)[:-2] + load(DATA + 35 * PAGE)
    scattered.place(CODE, CODE_PHYS, code)
    assert scattered.run(CODE) == CALLED

    shown = [i for i in range(64) if scattered.rights(DATA + i * PAGE)]
    assert shown == [20, *range(32, 48)]


def test_next_program_in_the_same_place_begins_anew(scattered: DirectGuest) -> None:
    scattered.probe.crowd_process()
    scattered.process = scattered.attach()
    assert shown_after_a_load(scattered, 20) == [20]
    for entry in range(512):
        scattered.probe.set_entry(scattered.tables.root + 8 * entry, 0)
    scattered.probe.load_cr3(scattered.tables.root)

    for page in range(64):
        scattered.tables.map(DATA + page * PAGE, DATA_PHYS + (63 - page) * PAGE, P | W | U | A)
    assert shown_after_a_load(scattered, 20) == list(range(16, 32))


# --- commands


def test_pages_of_code_that_continue_each_other_are_mapped_by_one_call(guest: DirectGuest) -> None:
    for page in range(7, 13):  # in the same aligned block
        guest.place(CODE + page * PAGE, CODE_PHYS + page * PAGE, give(page), P | U | A)
        assert guest.value(CODE + page * PAGE) == page
    guest.probe.leave_process()
    guest.process = guest.attach()

    assert guest.value(CODE + 7 * PAGE) == 7
    assert guest.commands() == [(MMAP, CODE + 7 * PAGE, 6 * PAGE)]


def test_page_that_is_mapped_anew_is_not_unmapped_first(guest: DirectGuest) -> None:
    guest.tables.map(DATA, DATA_PHYS, P | U | A)
    guest.place(CODE, CODE_PHYS, load(DATA))
    assert guest.run(CODE) == CALLED
    guest.tables.map(DATA, OTHER_PHYS, P | U | W | A | D)
    guest.probe.write_phys(OTHER_PHYS, b"\5")

    guest.probe.invlpg(DATA)
    guest.probe.prefill(DATA, WRITE)

    assert guest.value(CODE) & 0xFF == 5
    assert guest.commands() == [(MMAP, DATA, PAGE)]
    assert guest.rights(DATA) == "rw-s"


def test_neighbours_of_a_page_that_is_mapped_anew_are_unmapped(guest: DirectGuest) -> None:
    for page in range(2):
        guest.tables.map(DATA + page * PAGE, DATA_PHYS + page * PAGE, P | U | A)
    guest.place(CODE, CODE_PHYS, load(DATA))
    assert guest.run(CODE) == CALLED
    guest.tables.map(DATA, OTHER_PHYS, P | U | A)
    guest.probe.set_entry(guest.tables.where(DATA + PAGE), 0)

    guest.probe.invlpg(DATA + PAGE)
    guest.probe.invlpg(DATA)
    guest.probe.prefill(DATA, 0)

    assert guest.run(CODE) == CALLED
    assert guest.rights(DATA + PAGE) == ""


# --- what a program forges


def test_access_that_writes_and_fetches_makes_no_page_writable_and_executable(
    guest: DirectGuest,
) -> None:
    guest.place(CODE, CODE_PHYS, give(1), P | W | U | A | D)

    assert guest.probe.direct_fault(CODE, WRITE | FETCH) == OK
    guest.process.again()
    assert guest.process.wait()

    assert guest.rights(CODE).startswith("r-x")


def test_commands_that_a_step_interrupts_do_not_count_as_done(guest: DirectGuest) -> None:
    pages = [DATA + 2 * PAGE * i for i in range(1, 130)]
    entries = [guest.tables.map(at, DATA_PHYS + at % (1 << 20)) for at in pages]
    guest.tables.map(DATA, OTHER_PHYS)
    guest.place(CODE, CODE_PHYS, stepping_hand_over(CODE, DATA + 0x800, SIGSYS))
    for at in pages:
        assert guest.probe.direct_fault(at, WRITE) == OK
    assert guest.run(CODE) == CALLED

    for at, entry in zip(pages, entries, strict=True):
        guest.probe.set_entry(entry, 0)
        guest.probe.invlpg(at)

    assert guest.probe.process_dead()


# --- code that changes


def test_writable_alias_of_an_executed_page_is_seen(guest: DirectGuest) -> None:
    """The page's bytes change at another address, and what runs is what is there then."""
    alias = DATA + PAGE
    guest.place(CODE, CODE_PHYS, give(1))
    guest.tables.map(alias, CODE_PHYS)
    guest.place(CODE + PAGE, CODE_PHYS + PAGE, store(alias + 2, 7))
    guest.run(CODE + PAGE)  # the alias is mapped and writable
    assert guest.rights(alias) == "rw-s"

    assert guest.value(CODE) == 7
    assert (guest.rights(CODE), guest.rights(alias)) == ("r-xs", "r--s")
    guest.probe.write_phys(CODE_PHYS + PAGE, store(alias + 2, 9))
    assert guest.run(CODE + PAGE) == CALLED
    assert (guest.rights(CODE), guest.rights(alias)) == ("r--s", "rw-s")

    assert guest.value(CODE) == 9


def test_alias_puts_no_sensitive_instruction_into_a_page_that_runs(guest: DirectGuest) -> None:
    alias = DATA + PAGE
    guest.place(CODE, CODE_PHYS, give(1))
    guest.tables.map(alias, CODE_PHYS)
    guest.place(CODE + PAGE, CODE_PHYS + PAGE, store(alias, 0xD0010F))
    assert guest.value(CODE) == 1

    assert guest.run(CODE + PAGE) == CALLED

    assert guest.run(CODE) == Stop(answer=REFUSED, linear=CODE)
    assert guest.rights(CODE) == "r--s"


def test_write_of_a_device_takes_the_right_to_run(guest: DirectGuest) -> None:
    guest.place(CODE, CODE_PHYS, give(1))
    guest.value(CODE)

    guest.probe.write_phys(CODE_PHYS, give(3))

    assert guest.value(CODE) == 3


# --- large pages


def large(guest: DirectGuest) -> None:
    """A leaf of 2 MiB: code that gives 1 in page 5, and stores to page 6 in page 9."""
    guest.tables.map(LARGE, LARGE_PHYS, P | W | U, 2)
    for page, code in ((5, give(1)), (9, store(LARGE + 6 * PAGE))):
        guest.probe.write_phys(LARGE_PHYS + page * PAGE, code.ljust(PAGE, b"\x90"))


def test_one_page_of_a_large_leaf_runs(guest: DirectGuest) -> None:
    large(guest)

    assert guest.value(LARGE + 5 * PAGE) == 1
    assert guest.rights(LARGE + 5 * PAGE) == "r-xs"
    assert guest.rights(LARGE + 4 * PAGE) == guest.rights(LARGE + 6 * PAGE) == "r--s"
    assert guest.run(LARGE + 9 * PAGE) == CALLED

    assert [guest.rights(LARGE + n * PAGE) for n in (4, 5, 6)] == ["rw-s", "r--s", "rw-s"]
    assert guest.value(LARGE + 5 * PAGE) == 1
    assert [guest.rights(LARGE + n * PAGE) for n in (4, 5, 6)] == ["rw-s", "r-xs", "rw-s"]


def test_executed_page_of_a_large_leaf_changes(guest: DirectGuest) -> None:
    large(guest)
    guest.value(LARGE + 5 * PAGE)
    guest.place(CODE, CODE_PHYS, store(LARGE + 5 * PAGE + 2, 8))

    assert guest.run(CODE) == CALLED
    assert guest.rights(LARGE + 5 * PAGE) == "rw-s"

    assert guest.value(LARGE + 5 * PAGE) == 8


def test_refused_page_of_a_large_leaf_does_not_run(guest: DirectGuest) -> None:
    large(guest)
    guest.value(LARGE + 5 * PAGE)
    guest.probe.write_phys(LARGE_PHYS + 7 * PAGE + 100, b"\x0f\x01\xd0")

    assert guest.run(LARGE + 7 * PAGE) == Stop(answer=REFUSED, linear=LARGE + 7 * PAGE)
    assert "x" not in guest.rights(LARGE + 7 * PAGE)


# --- seams

LAST = PAGE - 1
SECOND = CODE + PAGE + 100


def across(guest: DirectGuest, first: bytes, second: bytes) -> None:
    """Code that gives 1 in each of two pages, one of which ends and the other begins with bytes."""
    guest.place(CODE, CODE_PHYS, give(1).ljust(PAGE - len(first), b"\x90") + first)
    guest.place(CODE + PAGE, CODE_PHYS + PAGE, second.ljust(100, b"\x90") + give(1))


def test_innocuous_instruction_across_pages_runs(guest: DirectGuest) -> None:
    across(guest, b"\x0f", b"\x1f\x00")

    assert guest.value(CODE) == guest.value(SECOND) == guest.value(CODE + LAST) == 1


def test_sensitive_instruction_across_pages_is_refused(guest: DirectGuest) -> None:
    """The first page may run, because nothing goes on from there while the second does not."""
    across(guest, b"\x0f", b"\x01\xd0")

    assert guest.value(CODE) == 1
    assert guest.run(SECOND) == Stop(answer=REFUSED, linear=SECOND)
    assert "x" not in guest.rights(SECOND)


def test_neither_page_runs_if_the_second_is_entered_first(guest: DirectGuest) -> None:
    across(guest, b"\x0f", b"\x01\xd0")

    for page in (SECOND, CODE, SECOND):
        assert guest.run(page) == Stop(answer=REFUSED, linear=page)


def test_page_that_the_process_still_has_counts_for_its_neighbour(guest: DirectGuest) -> None:
    across(guest, b"\x0f\x01", b"\xd0")
    assert guest.value(CODE) == 1
    guest.tables.map(CODE, OTHER_PHYS)  # and no INVLPG

    assert guest.run(SECOND) == Stop(answer=REFUSED, linear=SECOND)
    guest.probe.invlpg(CODE)
    assert guest.value(SECOND) == 1


def test_page_that_the_process_still_has_behind_counts_too(guest: DirectGuest) -> None:
    across(guest, b"\x90", b"\x01\xd0")
    assert guest.value(SECOND) == 1
    guest.tables.map(CODE + PAGE, OTHER_PHYS)
    guest.place(CODE, OTHER_PHYS + PAGE, give(1).ljust(PAGE - 1, b"\x90") + b"\x0f")

    assert guest.run(CODE) == Stop(answer=REFUSED, linear=CODE)


@pytest.mark.parametrize(
    ("first", "second", "changed", "bytes_"),
    [
        (b"\x0f", b"\x1f\x00", CODE_PHYS + PAGE, b"\x01\xd0"),
        (b"\x90", b"\x01\xd0", CODE_PHYS + LAST, b"\x0f"),
        (b"\x0f\x01", b"\x10", CODE_PHYS + PAGE, b"\xd0"),
        (b"\x90\x01", b"\xd0", CODE_PHYS + LAST - 1, b"\x0f"),
    ],
)
def test_instruction_across_pages_becomes_sensitive(
    guest: DirectGuest, first: bytes, second: bytes, changed: int, bytes_: bytes
) -> None:
    """Whichever page changes: it does not run again beside the other."""
    across(guest, first, second)
    assert guest.value(CODE) == guest.value(SECOND) == 1

    guest.probe.write_phys(changed, bytes_)

    other, page = (CODE, SECOND) if changed >= CODE_PHYS + PAGE else (SECOND, CODE)
    assert guest.value(other) == 1
    assert guest.run(page) == Stop(answer=REFUSED, linear=page)
