"""The fixed ACPI hardware against chapter 4.8 of the specification, and the reset register."""

import random

import pytest

from ringlet.devices import acpi_pm as pm
from ringlet.devices.acpi_pm import FREQUENCY, AcpiPm
from ringlet.devices.piix4_pm import PORTS
from ringlet.devices.reset import FULL_RST, RESET_VALUE, RST_CPU, SYS_RST, ResetControl

SECOND = 1_000_000_000
PM1_STS, PM1_EN, PM1_CNT, GPE_STS, GPE_EN = 0, 2, 4, 12, 14


class Board:
    """The hardware, a clock, and the recorded outputs."""

    def __init__(self) -> None:
        self.now = 123_456
        self.sci = False
        self.offs = 0
        self.changes = 0
        self.pm = AcpiPm(lambda: self.now, self._off, self._sci, self._changed)

    def _off(self) -> None:
        self.offs += 1

    def _sci(self, level: bool) -> None:
        self.sci = level

    def _changed(self) -> None:
        self.changes += 1

    def get(self, offset: int, size: int = 2) -> int:
        return self.pm.read(offset, size)

    def set(self, offset: int, value: int, size: int = 2) -> None:
        self.pm.write(offset, size, value)


@pytest.fixture
def board() -> Board:
    return Board()


def test_timer_counts_at_its_frequency_in_32_bits(board: Board) -> None:
    first = board.get(8, 4)
    board.now += SECOND
    second = board.get(8, 4)
    board.now += 1200 * SECOND

    assert (first, second) == (0, FREQUENCY)
    assert board.get(8, 4) == 1201 * FREQUENCY % (1 << 32)


def test_timer_reads_in_parts(board: Board) -> None:
    board.now += SECOND

    assert [board.get(8 + i, 1) for i in range(4)] == list(FREQUENCY.to_bytes(4, "little"))


def test_timer_cannot_be_written(board: Board) -> None:
    board.set(8, 0xFFFF_FFFF, 4)

    assert board.get(8, 4) == 0


def test_timer_status_follows_every_change_of_the_top_bit(board: Board) -> None:
    half = -(-(1 << 31) * SECOND // FREQUENCY)
    board.now += half - 1
    before = board.get(PM1_STS)
    board.now += 1
    after = board.get(PM1_STS)
    board.set(PM1_STS, pm.TIMER)
    cleared = board.get(PM1_STS)
    board.now += half

    assert (before, after, cleared, board.get(PM1_STS)) == (0, pm.TIMER, 0, pm.TIMER)


def test_timer_interrupts_when_enabled(board: Board) -> None:
    none = board.pm.next_event()
    board.set(PM1_EN, pm.TIMER)
    due = board.pm.next_event()
    assert due is not None
    board.now = due - 1
    early = board.pm.tick(), board.sci
    board.now = due

    assert none is None
    assert early == (due, False)
    assert board.pm.tick() is None
    assert board.sci


def test_clock_that_goes_off_raises_the_sci_once_enabled(board: Board) -> None:
    board.pm.rtc(True)
    assert (board.get(PM1_STS), board.sci) == (pm.RTC, False)

    board.set(PM1_EN, pm.RTC)
    assert board.sci

    board.set(PM1_STS, pm.RTC)
    board.pm.rtc(True)  # the same interrupt
    assert (board.get(PM1_STS), board.sci) == (0, False)

    board.pm.rtc(False)
    board.pm.rtc(True)
    assert board.sci


def test_power_button_raises_the_sci_once_enabled(board: Board) -> None:
    board.pm.press_power_button()
    disabled = board.sci
    board.set(PM1_EN, pm.POWER_BUTTON)
    enabled = board.sci
    status = board.get(PM1_STS)
    board.set(PM1_STS, pm.POWER_BUTTON)

    assert (disabled, enabled, status) == (False, True, pm.POWER_BUTTON)
    assert not board.sci
    assert board.get(PM1_STS) == 0


def test_a_zero_does_not_clear_a_status_bit(board: Board) -> None:
    board.pm.press_power_button()
    board.set(PM1_STS, 0xFFFF & ~pm.POWER_BUTTON)
    board.set(PM1_STS, 0xFF, 1)

    assert board.get(PM1_STS) == pm.POWER_BUTTON


def test_event_block_takes_32_bits_at_once(board: Board) -> None:
    board.pm.press_power_button()
    board.set(PM1_STS, pm.POWER_BUTTON | 0xFFFF << 16, 4)

    assert board.get(PM1_STS, 4) == 0x721 << 16


def test_bytes_of_the_enable_register_are_written_alone(board: Board) -> None:
    board.set(PM1_EN, pm.POWER_BUTTON | pm.GLOBAL)
    board.set(PM1_EN, 0, 1)

    assert board.get(PM1_EN) == pm.POWER_BUTTON


def test_sci_en_is_always_set(board: Board) -> None:
    before = board.get(PM1_CNT)
    board.set(PM1_CNT, 0)

    assert before == board.get(PM1_CNT) == pm.SCI_EN


def test_s5_turns_the_machine_off(board: Board) -> None:
    board.set(PM1_CNT, pm.S5_TYPE << pm.SLP_TYP_SHIFT)
    before = board.offs
    board.set(PM1_CNT, pm.S5_TYPE << pm.SLP_TYP_SHIFT | pm.SLP_EN)

    assert before == 0
    assert board.offs == 1
    assert not board.get(PM1_CNT) & pm.SLP_EN


def test_s5_by_a_byte_write(board: Board) -> None:
    board.set(PM1_CNT + 1, (pm.S5_TYPE << pm.SLP_TYP_SHIFT | pm.SLP_EN) >> 8, 1)

    assert board.offs == 1


def test_other_sleeping_states_end_at_once(board: Board) -> None:
    board.set(PM1_CNT, 1 << pm.SLP_TYP_SHIFT | pm.SLP_EN)

    assert board.offs == 0
    assert board.get(PM1_STS) == pm.WAKE


def test_general_purpose_event_is_a_level(board: Board) -> None:
    line = board.pm.gpe(3)
    line(True)
    before = board.sci
    board.set(GPE_EN, 1 << 3)
    enabled = board.sci
    board.set(GPE_STS, 1 << 3)
    held = board.sci
    line(False)
    latched = board.sci
    board.set(GPE_STS, 1 << 3)

    assert (before, enabled, held, latched, board.sci) == (False, True, True, True, False)


def test_state_moves_and_the_timer_goes_on(board: Board) -> None:
    board.now += SECOND
    board.set(PM1_EN, pm.POWER_BUTTON)
    board.pm.press_power_button()
    other = Board()
    other.now = 5
    other.pm.restore(board.pm.save())

    assert other.sci
    assert other.get(PM1_STS, 4) == board.get(PM1_STS, 4)
    assert other.get(8, 4) == FREQUENCY


def test_no_access_raises(board: Board) -> None:
    rng = random.Random(64)
    for _ in range(20_000):
        size = rng.choice([1, 2, 4])
        offset = rng.randrange(PORTS - size + 1)
        board.set(offset, rng.getrandbits(8 * size), size)
        board.now += rng.choice([0, SECOND, 500 * SECOND])
        assert 0 <= board.get(offset, size) < 1 << 8 * size
        due = board.pm.tick()
        assert due is None or due > board.now


def test_disabling_an_event_lowers_the_sci(board: Board) -> None:
    board.set(PM1_EN, pm.POWER_BUTTON)
    board.pm.press_power_button()
    before = board.sci
    board.set(PM1_EN, 0)

    assert before
    assert not board.sci


def test_timer_status_is_saved_without_having_been_read(board: Board) -> None:
    board.now += 700 * SECOND

    assert board.pm.save().registers.pm1_status == pm.TIMER


def test_timer_status_that_is_due_is_cleared_by_a_write(board: Board) -> None:
    board.now += 700 * SECOND
    board.set(PM1_STS, pm.TIMER)

    assert board.get(PM1_STS) == 0


# --- reset control


def test_reset_by_a_rise_of_rst_cpu() -> None:
    resets: list[None] = []
    port = ResetControl(lambda: resets.append(None))
    port.write(0, 1, SYS_RST)
    armed = len(resets)
    port.write(0, 1, RESET_VALUE)
    done = len(resets)
    port.write(0, 1, RESET_VALUE | FULL_RST)

    assert (armed, done, len(resets)) == (0, 1, 1)
    assert port.read(0, 1) == 0x0E


def test_reset_register_keeps_its_bits_and_moves() -> None:
    port = ResetControl(lambda: None)
    port.write(0, 1, 0xFF & ~RST_CPU)
    other = ResetControl(lambda: None)
    other.restore(port.save())

    assert other.read(0, 1) == SYS_RST | FULL_RST


def test_guest_heeds_the_button_once_it_has_enabled_it(board: Board) -> None:
    before = board.pm.heeds_power_button
    board.set(PM1_EN, pm.POWER_BUTTON | pm.GLOBAL)
    enabled = board.pm.heeds_power_button
    board.set(PM1_EN, pm.GLOBAL)

    assert (before, enabled, board.pm.heeds_power_button) == (False, True, False)
