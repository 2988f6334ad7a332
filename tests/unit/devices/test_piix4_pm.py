"""The place of the fixed ACPI hardware (82371AB data sheet, 7.2)."""

from __future__ import annotations

import random

import pytest

from ringlet.devices.piix4_pm import ENABLE, PMBA, PMREGMISC, PORTS, Piix4Pm


class Board:
    """The chip, placed as firmware does, and the places that it reported."""

    def __init__(self) -> None:
        self.places: list[int | None] = []
        self.chip = Piix4Pm(self.places.append)

    def get(self, offset: int, size: int = 4) -> int:
        return self.chip.function.read_config(offset, size)

    def set(self, offset: int, value: int, size: int = 4) -> None:
        self.chip.function.write_config(offset, size, value)


@pytest.fixture
def board() -> Board:
    board = Board()
    board.chip.place(0x600)
    board.places.clear()
    return board


def test_nothing_answers_after_power_on() -> None:
    board = Board()
    assert (board.get(PMBA), board.get(PMREGMISC, 1), board.places) == (1, 0, [])


def test_firmware_gives_it_a_place() -> None:
    board = Board()
    board.chip.place(0x600)
    assert board.places == [0x600]
    assert (board.get(PMBA), board.get(PMREGMISC, 1)) == (0x601, ENABLE)


def test_guest_moves_it(board: Board) -> None:
    board.set(PMBA, 0xB000)
    board.set(PMBA + 1, 0xC1, 1)
    assert board.places == [0xB000, 0xC100]


def test_guest_takes_it_away_and_brings_it_back(board: Board) -> None:
    board.set(PMREGMISC, 0, 1)
    board.set(PMBA, 0xB000)
    board.set(PMREGMISC, 0xFF, 1)
    assert board.places == [None, 0xB000]
    assert board.get(PMREGMISC, 1) == ENABLE


def test_only_the_bits_of_the_place_can_be_written(board: Board) -> None:
    board.set(PMBA, 0xFFFF_FFFF)
    assert board.get(PMBA) == 0xFFC1
    assert board.places == [0x10000 - PORTS]


def test_same_place_is_not_reported_again(board: Board) -> None:
    board.set(PMBA, 0x601)
    board.set(PMREGMISC, 1, 1)
    assert board.places == []


def test_reset_takes_it_away(board: Board) -> None:
    board.chip.function.reset()
    board.set(0x44, 0)
    assert board.get(PMBA) == 1
    board.set(PMBA, 0xB000)
    assert board.places == [None]


def test_state_goes_on(board: Board) -> None:
    board.set(PMBA, 0xB000)
    other = Board()
    other.chip.restore(board.chip.save())
    assert other.places == [0xB000]


def test_no_access_raises(board: Board) -> None:
    rng = random.Random(82371)
    for _ in range(5_000):
        size = rng.choice([1, 2, 4])
        offset = rng.choice([PMBA, PMREGMISC, rng.randrange(256 // size) * size])
        board.set(offset, rng.getrandbits(8 * size), size)
    assert all(place is None or place % PORTS == 0 for place in board.places)
