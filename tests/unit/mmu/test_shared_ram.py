"""Two processors on one RAM: separate windows, TLBs and translations, but common code pages."""

from __future__ import annotations

import pytest

from ringlet_probes.mmu import Probe
from tests.unit.mmu.guest import AT, CR0, CR4_PAE, DATA, MIB, PAGE, Guest, peek, poke

EFER_LONG = 0x500


@pytest.fixture
def two(guest: Guest) -> tuple[Probe, Probe]:
    """Return two processors whose windows map the page DATA at AT as writable."""
    other = Probe(64 * MIB, beside=guest.probe)
    other.set_registers(CR0, guest.tables.root, CR4_PAE, EFER_LONG, 0)
    other.flush_all()
    guest.tables.map(AT, DATA)
    for probe in (guest.probe, other):
        probe.slot_fault(AT, 2)
        assert probe.shadow_fault(probe.host(AT), 2) == (0, AT)
        probe.hooks()
    return guest.probe, other


def test_both_see_what_one_writes(two: tuple[Probe, Probe]) -> None:
    first, second = two

    assert first.host(AT) != second.host(AT)
    assert poke(first.host(AT), b"from one")

    assert peek(second.host(AT), 8) == b"from one"


@pytest.mark.parametrize("translator", [0, 1])
def test_code_page_of_one_is_read_only_in_the_windows_of_both(
    two: tuple[Probe, Probe], translator: int
) -> None:
    two[translator].protect_code(DATA + 5)

    for probe in two:
        assert peek(probe.host(AT), 1) is not None
        assert not poke(probe.host(AT), b"x")


@pytest.mark.parametrize("writer", [0, 1])
def test_write_of_one_is_told_to_both(two: tuple[Probe, Probe], writer: int) -> None:
    two[0].protect_code(DATA)

    two[writer].shadow_fault(two[writer].host(AT), 2)

    for probe in two:
        assert probe.hooks()[1] == [DATA]
        assert poke(probe.host(AT), b"x")


def test_window_filled_later_shows_the_others_code_page_read_only(
    guest: Guest, two: tuple[Probe, Probe]
) -> None:
    two[0].protect_code(DATA + PAGE)
    guest.tables.map(AT + PAGE, DATA + PAGE)

    assert two[1].shadow_fault(two[1].host(AT + PAGE), 0) == (0, AT + PAGE)

    assert peek(two[1].host(AT + PAGE), 1) is not None
    assert not poke(two[1].host(AT + PAGE), b"x")


def test_unmapping_in_one_leaves_the_other(guest: Guest, two: tuple[Probe, Probe]) -> None:
    guest.tables.map(AT, 0, 0)

    two[0].invlpg(AT)

    assert peek(two[0].host(AT), 1) is None
    assert peek(two[1].host(AT), 1) is not None


def test_ram_outlives_a_processor_that_goes(guest: Guest) -> None:
    other = Probe(64 * MIB, beside=guest.probe)
    other.write_phys(DATA, b"kept")
    del other

    guest.probe.protect_code(DATA)

    assert guest.probe.read_phys(DATA, 4) == b"kept"
