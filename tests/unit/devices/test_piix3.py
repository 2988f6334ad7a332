"""The routes of PCI interrupts (82371SB data sheet, 2.2.7)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ringlet.devices.piix3 import PIRQRC, PIRQS, Piix3

ROUTES = (10, 10, 11, 11)


class Board:
    """The chip and the levels of all lines."""

    def __init__(self) -> None:
        self.apic = [False] * PIRQS
        self.isa: dict[int, bool] = {}
        self.chip = Piix3([self._line(n) for n in range(PIRQS)], self._isa_line, ROUTES)

    def _line(self, number: int) -> Callable[[bool], None]:
        def drive(level: bool) -> None:
            self.apic[number] = level

        return drive

    def _isa_line(self, irq: int) -> Callable[[bool], None]:
        def drive(level: bool) -> None:
            self.isa[irq] = level

        return drive

    def route(self, pirq: int, value: int) -> None:
        self.chip.function.write_config(PIRQRC + pirq, 1, value)

    def high(self) -> set[int]:
        return {irq for irq, level in self.isa.items() if level}


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.mark.parametrize("pirq", range(PIRQS))
def test_line_reaches_both_controllers(board: Board, pirq: int) -> None:
    tap = board.chip.tap(pirq)
    tap(True)
    assert board.apic == [n == pirq for n in range(PIRQS)]
    assert board.high() == {ROUTES[pirq]}
    tap(False)
    assert board.apic == [False] * PIRQS
    assert board.high() == set()


def test_devices_share_a_line(board: Board) -> None:
    one, two = board.chip.tap(0), board.chip.tap(0)
    one(True)
    two(True)
    one(False)
    assert board.apic == [True, False, False, False]
    assert board.high() == {10}
    two(False)
    assert board.apic == [False] * PIRQS
    assert board.high() == set()


def test_lines_share_an_input(board: Board) -> None:
    one, two = board.chip.tap(0), board.chip.tap(1)
    one(True)
    two(True)
    one(False)
    assert board.high() == {10}
    two(False)
    assert board.high() == set()


def test_route_moves_a_level_that_is_high(board: Board) -> None:
    board.chip.tap(2)(True)
    board.route(2, 5)
    assert board.high() == {5}
    assert board.apic[2]
    board.route(2, 0x80)
    assert board.high() == set(), "bit 7 disables the route"
    assert board.apic[2]
    board.route(2, 11)
    assert board.high() == {11}


def test_reserved_bits_stay(board: Board) -> None:
    board.route(0, 0xFF)
    assert board.chip.function.read_config(PIRQRC, 1) == 0x8F


def test_state_goes_on(board: Board) -> None:
    board.chip.tap(3)(True)
    board.route(3, 7)
    other = Board()
    other.chip.restore(board.chip.save())
    assert other.apic == [False, False, False, True]
    assert other.high() == {7}


@pytest.mark.parametrize("irq", [0, 1, 2, 8, 13])
def test_inputs_of_the_board_itself_are_out_of_reach(board: Board, irq: int) -> None:
    board.chip.tap(0)(True)
    board.route(0, irq)
    assert board.high() == set()


def test_reset_takes_the_routes_away(board: Board) -> None:
    board.chip.function.reset()
    assert [board.chip.function.read_config(PIRQRC + n, 1) for n in range(PIRQS)] == [0x80] * 4
