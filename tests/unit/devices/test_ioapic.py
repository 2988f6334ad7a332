"""The I/O APIC against the 82093AA data sheet."""

import random

import pytest

from ringlet.devices.ioapic import (
    EOIR,
    INPUTS,
    IOAPICARB,
    IOAPICID,
    IOAPICVER,
    IOREDTBL,
    IOREGSEL,
    IOWIN,
    LEVEL,
    LOGICAL,
    MASKED,
    REMOTE_IRR,
    IoApic,
)  # fmt: skip


class Board:
    """An I/O APIC whose messages are written down."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.apic = IoApic(lambda address, data: self.sent.append((address, data)), ident=3)

    def get(self, register: int) -> int:
        self.apic.write(IOREGSEL, 4, register)
        return self.apic.read(IOWIN, 4)

    def set(self, register: int, value: int) -> None:
        self.apic.write(IOREGSEL, 4, register)
        self.apic.write(IOWIN, 4, value)

    def program(self, number: int, low: int, destination: int = 0) -> None:
        self.set(IOREDTBL + 2 * number + 1, destination << 24)
        self.set(IOREDTBL + 2 * number, low)

    def vectors(self) -> list[int]:
        return [data & 0xFF for _, data in self.sent]


@pytest.fixture
def board() -> Board:
    return Board()


def test_identification_says_version_20h_and_24_inputs(board: Board) -> None:
    assert board.get(IOAPICVER) == 0x0017_0020
    assert board.get(IOAPICID) == 0x0300_0000
    assert board.get(IOAPICARB) == 0x0300_0000


def test_identity_can_be_written(board: Board) -> None:
    board.set(IOAPICID, 0xFFFF_FFFF)

    assert board.get(IOAPICID) == 0x0F00_0000


def test_all_inputs_are_masked_at_reset(board: Board) -> None:
    entries = [board.get(IOREDTBL + 2 * n) for n in range(INPUTS)]

    assert entries == [MASKED] * INPUTS


def test_status_bits_of_an_entry_cannot_be_written(board: Board) -> None:
    board.program(5, 0xFFFF_FFFF, 0xAB)

    assert board.get(IOREDTBL + 10) == 0x0001_AFFF
    assert board.get(IOREDTBL + 11) == 0xAB00_0000


def test_edge_sends_one_message_for_each_rise(board: Board) -> None:
    board.program(4, 0x31)
    line = board.apic.line(4)
    for level in (True, True, False, True, False):
        line(level)

    assert board.sent == [(0xFEE0_0000, 0x31)] * 2


def test_message_carries_destination_and_delivery_mode(board: Board) -> None:
    board.program(1, 0x1_00 | LOGICAL | 0x55, 0x81)
    board.apic.line(1)(True)

    assert board.sent == [(0xFEE8_1004, 0x155)]


def test_edge_on_a_masked_input_is_lost(board: Board) -> None:
    board.program(4, MASKED | 0x31)
    board.apic.line(4)(True)
    board.program(4, 0x31)

    assert board.sent == []


def test_level_asks_once_until_its_end(board: Board) -> None:
    board.program(9, LEVEL | 0x41)
    line = board.apic.line(9)
    line(True)
    line(False)
    line(True)

    assert board.sent == [(0xFEE0_0000, 0xC041)]
    assert board.get(IOREDTBL + 18) & REMOTE_IRR


def test_level_still_asserted_asks_again_at_its_end(board: Board) -> None:
    board.program(9, LEVEL | 0x41)
    board.apic.line(9)(True)
    board.apic.end_of_interrupt(0x41)

    assert board.vectors() == [0x41, 0x41]
    assert board.get(IOREDTBL + 18) & REMOTE_IRR


def test_level_released_is_quiet_at_its_end(board: Board) -> None:
    board.program(9, LEVEL | 0x41)
    line = board.apic.line(9)
    line(True)
    line(False)
    board.apic.end_of_interrupt(0x41)

    assert board.vectors() == [0x41]
    assert not board.get(IOREDTBL + 18) & REMOTE_IRR


def test_end_of_another_vector_changes_nothing(board: Board) -> None:
    board.program(9, LEVEL | 0x41)
    board.apic.line(9)(True)
    board.apic.end_of_interrupt(0x42)

    assert board.vectors() == [0x41]


def test_eoi_register_ends_an_interrupt(board: Board) -> None:
    board.program(9, LEVEL | 0x41)
    board.apic.line(9)(True)
    board.apic.write(EOIR, 4, 0x41)

    assert board.vectors() == [0x41, 0x41]


def test_level_that_was_masked_asks_when_unmasked(board: Board) -> None:
    board.program(9, MASKED | LEVEL | 0x41)
    board.apic.line(9)(True)
    before = list(board.sent)
    board.program(9, LEVEL | 0x41)

    assert before == []
    assert board.vectors() == [0x41]


def test_level_masked_in_service_waits_for_unmasking(board: Board) -> None:
    board.program(9, LEVEL | 0x41)
    board.apic.line(9)(True)
    board.set(IOREDTBL + 18, MASKED | LEVEL | 0x41)
    board.apic.end_of_interrupt(0x41)
    before = board.vectors()
    board.set(IOREDTBL + 18, LEVEL | 0x41)

    assert before == [0x41]
    assert board.vectors() == [0x41, 0x41]


def test_a_switch_to_edge_and_back_clears_remote_irr(board: Board) -> None:
    board.program(9, LEVEL | 0x41)
    line = board.apic.line(9)
    line(True)
    line(False)
    board.program(9, MASKED | 0x41)
    board.program(9, MASKED | LEVEL | 0x41)

    assert not board.get(IOREDTBL + 18) & REMOTE_IRR


@pytest.mark.parametrize("mode", [2, 4, 5, 7])
def test_smi_nmi_init_and_extint_are_edges_even_if_programmed_as_levels(
    board: Board, mode: int
) -> None:
    board.program(0, LEVEL | mode << 8)
    line = board.apic.line(0)
    line(True)
    line(False)
    line(True)

    assert board.sent == [(0xFEE0_0000, mode << 8)] * 2


def test_inputs_accept_by_mask_and_remote_irr(board: Board) -> None:
    board.program(3, 0x33)
    board.program(9, LEVEL | 0x41)
    board.apic.line(9)(True)

    assert [board.apic.accepts(n) for n in (2, 3, 9)] == [False, True, False]


@pytest.mark.parametrize("register", [3, 0xF, IOREDTBL + 2 * INPUTS, 0xFF])
def test_registers_that_are_not_there_read_zero_and_drop_writes(
    board: Board, register: int
) -> None:
    before = board.apic.save()
    board.set(register, 0xFFFF_FFFF)

    assert board.get(register) == 0
    assert board.apic.save().entries == before.entries


def test_parts_of_registers_can_be_read(board: Board) -> None:
    board.apic.write(IOREGSEL, 1, IOAPICVER)

    assert board.apic.read(IOWIN + 2, 1) == 0x17
    assert board.apic.read(IOWIN, 1) == 0x20
    assert board.apic.read(IOREGSEL, 8) == IOAPICVER


def test_a_narrow_write_to_the_window_is_dropped(board: Board) -> None:
    board.apic.write(IOREGSEL, 4, IOREDTBL)
    board.apic.write(IOWIN, 1, 0x55)

    assert board.apic.read(IOWIN, 4) == MASKED


def test_state_moves_to_another_chip(board: Board) -> None:
    board.program(9, LEVEL | 0x41, 7)
    board.apic.line(9)(True)
    other = Board()
    other.apic.restore(board.apic.save())
    board.apic.line(9)(False)
    other.apic.end_of_interrupt(0x41)

    assert other.sent == [(0xFEE0_7000, 0xC041)]


def test_no_access_raises(board: Board) -> None:
    rng = random.Random(93)
    for _ in range(20_000):
        offset, size = rng.choice([0, 0x10, 0x40, rng.randrange(0x1000)]), rng.choice([1, 2, 4, 8])
        board.apic.write(offset, size, rng.getrandbits(8 * size))
        board.apic.set_line(rng.randrange(INPUTS), rng.random() < 0.5)
        assert 0 <= board.apic.read(offset, size) < 1 << 8 * size
    assert len(board.apic.save().entries) == INPUTS


def test_destination_has_15_bits(board: Board) -> None:
    """Bits 63:49 of an entry, as Linux's IO_APIC_route_entry has them; bit 48 is another's."""
    board.set(IOREDTBL + 3, 0x12FF_0000)
    board.set(IOREDTBL + 2, 0x55)
    board.apic.line(1)(True)

    assert board.get(IOREDTBL + 3) == 0x12FE_0000
    assert board.sent == [(0xFEE1_2FE0, 0x55)]
