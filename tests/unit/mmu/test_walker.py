"""Walks: rights, error codes, accessed and dirty, reserved bits, page sizes (SDM 3A 4.5-4.8)."""

from __future__ import annotations

import pytest

from ringlet_probes.mmu import Probe
from tests.unit.mmu.guest import (
    CR0,
    CR0_WP,
    CR4_PAE,
    CR4_PSE,
    EFER_LONG,
    EFER_NXE,
    FAULT,
    FETCH,
    GIB,
    GP,
    MIB,
    MMIO,
    NX,
    OK,
    PAGE,
    PF,
    PF_I,
    PF_P,
    PF_RSVD,
    PF_U,
    PF_W,
    PS,
    READ,
    USER,
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
DATA = 8 * MIB


def fault_of(guest: Guest, linear: int, access: int) -> tuple[int, int, int]:
    result, _ = guest.probe.translate(linear, access)
    assert result == FAULT
    return guest.probe.exception


@pytest.mark.parametrize(("level", "phys"), [(1, DATA), (2, DATA), (3, 0)])
def test_leaf_of_each_size_adds_the_offset(guest: Guest, level: int, phys: int) -> None:
    size = 1 << (3 + 9 * level)
    base = AT & ~(size - 1)
    guest.tables.map(base, phys, P | W | U, level)

    assert guest.probe.translate(base + 0x123, READ) == (OK, phys + 0x123)


@pytest.mark.parametrize(
    ("leaf", "upper", "access", "error"),
    [
        (0, P | W | U, READ, 0),
        (0, P | W | U, WRITE, PF_W),
        (0, P | W | U, USER, PF_U),
        (0, P | W | U, USER | WRITE, PF_U | PF_W),
        (0, P | W | U, FETCH, PF_I),
        (0, P | W | U, FETCH | USER, PF_I | PF_U),
        (P | W, P | W | U, USER, PF_P | PF_U),
        (P | W, P | W | U, USER | WRITE, PF_P | PF_U | PF_W),
        (P | W | U, P | W, USER, PF_P | PF_U),
        (P | U, P | W | U, WRITE, PF_P | PF_W),
        (P | U, P | W | U, USER | WRITE, PF_P | PF_U | PF_W),
        (P | W | U, P | U, USER | WRITE, PF_P | PF_U | PF_W),
        (P | W | U | NX, P | W | U, FETCH, PF_P | PF_I),
        (P | W | U | NX, P | W | U, FETCH | USER, PF_P | PF_I | PF_U),
        (P | W | U, P | W | U | NX, FETCH | USER, PF_P | PF_I | PF_U),
        (P | W, P | W | U, FETCH | USER, PF_P | PF_I | PF_U),
    ],
)
def test_error_code(guest: Guest, leaf: int, upper: int, access: int, error: int) -> None:
    at = guest.tables.where(AT, 1, upper)
    guest.probe.set_entry(at, DATA | leaf)

    assert fault_of(guest, AT + 5, access) == (PF, error, AT + 5)


@pytest.mark.parametrize(
    ("leaf", "access"),
    [
        (P | W | U, USER | WRITE),
        (P | U, USER),
        (P | U, READ),
        (P | U, FETCH | USER),
        (P | W | U, FETCH),  # SMEP is hidden
        (P | W | U, READ),  # SMAP too
        (P | W, WRITE),
        (P | W | NX, READ),
    ],
)
def test_allowed(guest: Guest, leaf: int, access: int) -> None:
    guest.tables.map(AT, DATA, leaf)

    assert guest.probe.translate(AT, access) == (OK, DATA)


def test_supervisor_writes_read_only_pages_when_wp_is_clear(guest: Guest) -> None:
    guest.tables.map(AT, DATA, P | U)
    guest.set(cr0=CR0 & ~CR0_WP, cr3=guest.tables.root, cr4=CR4_PAE, efer=EFER_LONG | EFER_NXE)

    supervisor, _ = guest.probe.translate(AT, WRITE)
    user = fault_of(guest, AT, WRITE | USER)

    assert supervisor == OK
    assert user == (PF, PF_P | PF_W | PF_U, AT)


def test_non_canonical_is_gp(guest: Guest) -> None:
    vector, error, _ = fault_of(guest, 0x0000_8000_0000_0000, READ)

    assert (vector, error) == (GP, 0)


def test_fetch_bit_is_absent_without_nxe() -> None:
    guest = Guest(efer=EFER_LONG)

    assert fault_of(guest, AT, FETCH) == (PF, 0, AT)


@pytest.mark.parametrize(
    ("level", "bits"),
    [
        (1, 1 << 46),
        (1, 1 << 51),
        (2, 1 << 13),
        (2, 1 << 20),
        (3, 1 << 13),
        (3, 1 << 29),
        (4, PS),
    ],
)
def test_reserved_bit(guest: Guest, level: int, bits: int) -> None:
    at = guest.tables.where(AT, level)
    guest.probe.set_entry(at, P | W | U | bits | (PS if 1 < level < 4 else 0))

    assert fault_of(guest, AT, READ) == (PF, PF_P | PF_RSVD, AT)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_xd_is_reserved_without_nxe(level: int) -> None:
    guest = Guest(efer=EFER_LONG)
    guest.tables.map(AT, DATA)
    at = guest.tables.where(AT, level)
    guest.probe.set_entry(at, guest.probe.entry(at) | NX)

    assert fault_of(guest, AT, WRITE) == (PF, PF_P | PF_RSVD | PF_W, AT)


def test_reserved_bits_of_an_entry_not_present_do_not_matter(guest: Guest) -> None:
    at = guest.tables.where(AT)
    guest.probe.set_entry(at, ~P & (1 << 64) - 1)

    assert fault_of(guest, AT, READ) == (PF, 0, AT)


@pytest.mark.parametrize("bits", [0x1FF << 52, 7 << 9, 1 << 12 | PS])
def test_ignored_bits_do_not_fault(guest: Guest, bits: int) -> None:
    level = 2 if bits & PS else 1
    guest.tables.map(AT & ~0x1FFFFF, DATA, P | W | U | bits, level)

    assert guest.probe.translate(AT & ~0x1FFFFF, READ) == (OK, DATA)


def test_read_sets_accessed_on_every_level(guest: Guest) -> None:
    guest.tables.where(AT, 1, P | W | U)
    guest.tables.map(AT, DATA)

    guest.probe.translate(AT, READ)

    entries = [guest.probe.entry(guest.tables.where(AT, level)) for level in (4, 3, 2, 1)]
    assert [entry & (A | D) for entry in entries] == [A, A, A, A]


def test_write_sets_dirty_on_the_leaf_only(guest: Guest) -> None:
    guest.tables.map(AT, DATA)

    guest.probe.translate(AT, WRITE)

    entries = [guest.probe.entry(guest.tables.where(AT, level)) for level in (4, 3, 2, 1)]
    assert [entry & (A | D) for entry in entries] == [A, A, A, A | D]


def test_faulting_walk_sets_nothing(guest: Guest) -> None:
    at = guest.tables.map(AT, DATA, P | U)

    fault_of(guest, AT, WRITE)

    assert guest.probe.entry(at) == DATA | P | U


def test_page_without_ram_is_mmio(guest: Guest) -> None:
    guest.tables.map(AT, 0xFEE0_0000)

    assert guest.probe.translate(AT + 0x30, READ) == (MMIO, 0xFEE0_0030)
    assert guest.probe.mmio == (0xFEE0_0030, AT + 0x30)


def test_table_without_ram_reads_as_ones(guest: Guest) -> None:
    at = guest.tables.where(AT, 2)
    guest.probe.set_entry(at, 0xFE00_0000 | P | W | U)

    assert fault_of(guest, AT, READ) == (PF, PF_P | PF_RSVD, AT)


def test_access_across_pages_reads_both(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.tables.map(AT + PAGE, DATA + 4 * PAGE)
    guest.probe.write_phys(DATA + PAGE - 3, b"abc")
    guest.probe.write_phys(DATA + 4 * PAGE, b"defgh")

    assert guest.probe.read(AT + PAGE - 3, 8) == (OK, b"abcdefgh")


def test_write_across_pages_changes_nothing_if_the_second_faults(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.probe.write_phys(DATA + PAGE - 4, b"keep")

    result = guest.probe.write(AT + PAGE - 4, b"12345678")

    assert result == FAULT
    assert guest.probe.exception == (PF, PF_W, AT + PAGE)
    assert guest.probe.read_phys(DATA + PAGE - 4, 4) == b"keep"


def test_write_across_pages_writes_both(guest: Guest) -> None:
    guest.tables.map(AT, DATA)
    guest.tables.map(AT + PAGE, DATA + 4 * PAGE)

    result = guest.probe.write(AT + PAGE - 5, b"12345678")

    assert result == OK
    assert guest.probe.read_phys(DATA + PAGE - 5, 5) == b"12345"
    assert guest.probe.read_phys(DATA + 4 * PAGE, 3) == b"678"


# --- the other paging modes


def test_paging_off_is_identity_of_32_bits(guest: Guest) -> None:
    guest.set(cr0=1, cr3=0, cr4=0, efer=0)

    assert guest.probe.translate(0x1_0000_1234, WRITE) == (OK, 0x1234)


def test_32_bit_walk_of_4_kib_pages(guest: Guest) -> None:
    guest.probe.write_phys(
        0x5000 + (0x8040_3000 >> 22) * 4, (0x6000 | P | W | U).to_bytes(4, "little")
    )
    guest.probe.write_phys(0x6000 + 3 * 4, (DATA | P | U).to_bytes(4, "little"))
    guest.set(cr0=CR0, cr3=0x5000, cr4=0, efer=0)

    read = guest.probe.translate(0x8040_3456, READ)
    write = fault_of(guest, 0x8040_3456, WRITE | USER)

    assert read == (OK, DATA + 0x456)
    assert write == (PF, PF_P | PF_W | PF_U, 0x8040_3456)
    pde = guest.probe.read_phys(0x5000 + (0x8040_3000 >> 22) * 4, 4)
    pte = guest.probe.read_phys(0x6000 + 3 * 4, 4)
    assert pde == (0x6000 | P | W | U | A).to_bytes(4, "little")
    assert pte == (DATA | P | U | A).to_bytes(4, "little")


def test_32_bit_walk_uses_the_second_half_of_a_table(guest: Guest) -> None:
    guest.probe.write_phys(0x5000, (0x6000 | P | W).to_bytes(4, "little"))
    guest.probe.write_phys(0x6000 + 1023 * 4, (DATA | P | W).to_bytes(4, "little"))
    guest.set(cr0=CR0, cr3=0x5000, cr4=0, efer=0)

    assert guest.probe.translate(0x3F_F123, WRITE) == (OK, DATA + 0x123)
    assert guest.probe.read_phys(0x6000 + 1023 * 4, 1) == bytes([P | W | A | D])


def test_32_bit_walk_of_4_mib_page(guest: Guest) -> None:
    guest.probe.write_phys(0x5000 + 4, (16 * MIB | P | W | PS).to_bytes(4, "little"))
    guest.set(cr0=CR0, cr3=0x5000, cr4=CR4_PSE, efer=0)

    assert guest.probe.translate(0x40_0000 + 0x31_2345, READ) == (OK, 16 * MIB + 0x31_2345)


def test_32_bit_walk_of_4_mib_page_above_4_gib() -> None:
    probe = Probe(5 * GIB)
    probe.write_phys(0x5000, (P | W | PS | 1 << 13).to_bytes(4, "little"))
    probe.set_registers(CR0, 0x5000, CR4_PSE, 0, 0)
    probe.flush_all()

    assert probe.translate(0x12_3456, READ) == (OK, 4 * GIB + 0x12_3456)


def test_pae_walk_loads_the_pdptes_with_cr3(guest: Guest) -> None:
    guest.probe.set_entry(0x5000 + 8, 0x6000 | P)
    guest.probe.set_entry(0x6000, 0x7000 | P | W | U)
    guest.probe.set_entry(0x7000 + 8, DATA | P | W | U | G)
    guest.set(cr0=CR0, cr3=0x5000, cr4=CR4_PAE, efer=0)
    before = guest.probe.translate(0x4000_1FFF, READ | USER)
    guest.probe.set_entry(0x5000 + 8, 0)

    still = guest.probe.translate(0x4000_1FFF, READ | USER)
    guest.probe.load_cr3(0x5000)
    result, _ = guest.probe.translate(0x4000_1FFF, READ)

    assert before == (OK, DATA + 0xFFF)
    assert still == before
    assert result == FAULT
