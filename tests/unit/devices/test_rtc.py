"""The clock chip against the MC146818A data sheet, on clocks that the test moves."""

import random
from datetime import UTC, datetime

import pytest

from ringlet.devices import rtc as chip
from ringlet.devices.rtc import Rtc

SECOND = 1_000_000_000
START = datetime(2024, 2, 28, 23, 59, 57, 250_000, tzinfo=UTC).timestamp()
TO_BOUNDARY = 750_000_000  # from START

A, B, C, D = chip.REGISTER_A, chip.REGISTER_B, chip.REGISTER_C, chip.REGISTER_D


class Clockwork:
    """A chip, its clocks, and the recorded levels of its line."""

    def __init__(self, start: float = START, now: int = 77_000) -> None:
        self.now = now
        self.wall = start
        self.level = False
        self.rises = 0
        self.changes = 0
        self.rtc = Rtc(lambda: self.now, lambda: self.wall, self._irq, self._changed)

    def _irq(self, level: bool) -> None:
        self.rises += level and not self.level
        self.level = level

    def _changed(self) -> None:
        self.changes += 1

    def get(self, index: int) -> int:
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def set(self, index: int, value: int) -> None:
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def after(self, ns: int) -> None:
        self.now += ns
        self.wall += ns / SECOND

    def time(self) -> list[int]:
        """Century, year, month, day, hours, minutes, seconds, as they read."""
        places = (
            chip.CENTURY, chip.YEAR, chip.MONTH, chip.DAY_OF_MONTH, chip.HOURS, chip.MINUTES,
            chip.SECONDS,
        )  # fmt: skip
        return [self.get(index) for index in places]

    def set_time(self, *values: int) -> None:
        """Set what `time` reads, as software does: with SET."""
        control = self.get(B)
        self.set(B, control | chip.B_SET)
        places = (
            chip.CENTURY, chip.YEAR, chip.MONTH, chip.DAY_OF_MONTH, chip.HOURS, chip.MINUTES,
            chip.SECONDS,
        )  # fmt: skip
        for index, value in zip(places, values, strict=True):
            self.set(index, value)
        self.set(B, control)


@pytest.fixture
def it() -> Clockwork:
    return Clockwork()


# --- the time


def test_shows_the_hosts_time_in_bcd_and_24_hours(it: Clockwork) -> None:
    assert it.time() == [0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x57]


def test_runs_over_the_end_of_a_leap_years_february(it: Clockwork) -> None:
    it.after(TO_BOUNDARY + 2 * SECOND)
    leap = it.time()
    it.after(86_400 * SECOND)

    assert leap == [0x20, 0x24, 0x02, 0x29, 0, 0, 0]
    assert it.time() == [0x20, 0x24, 0x03, 0x01, 0, 0, 0]


def test_binary_mode(it: Clockwork) -> None:
    it.set(B, chip.B_24H | chip.B_DM)
    it.set_time(20, 31, 12, 31, 23, 59, 58)
    it.after(SECOND)

    assert it.time() == [20, 31, 12, 31, 23, 59, 59]


@pytest.mark.parametrize(
    ("hour", "register"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (13, 0x81), (23, 0x91)]
)
def test_12_hour_mode_has_pm_in_bit_7(hour: int, register: int) -> None:
    it = Clockwork(datetime(2024, 1, 1, hour, 30, tzinfo=UTC).timestamp())
    it.set(B, chip.B_SET)
    it.set(chip.HOURS, register)
    it.set(B, 0)
    in_12 = it.get(chip.HOURS)
    it.after(3600 * SECOND)

    assert in_12 == register
    assert it.rtc._seconds(it.now) // 3600 % 24 == (hour + 1) % 24


def test_day_of_week_counts_from_sunday(it: Clockwork) -> None:
    wednesday = it.get(chip.DAY_OF_WEEK)
    it.after(4 * 86_400 * SECOND)

    assert wednesday == 4
    assert it.get(chip.DAY_OF_WEEK) == 1


def test_day_of_week_is_what_the_guest_makes_it(it: Clockwork) -> None:
    it.set(chip.DAY_OF_WEEK, 7)
    it.after(86_400 * SECOND)

    assert it.get(chip.DAY_OF_WEEK) == 1


def test_set_stops_the_time_and_keeps_the_beat(it: Clockwork) -> None:
    it.set(B, chip.B_24H | chip.B_SET)
    it.after(10 * SECOND)
    held = it.time()
    it.set(B, chip.B_24H)
    it.after(TO_BOUNDARY - 1)
    before = it.get(chip.SECONDS)
    it.after(1)

    assert held[-1] == before == 0x57
    assert it.get(chip.SECONDS) == 0x58


def test_time_that_was_set_goes_on(it: Clockwork) -> None:
    it.set_time(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59)
    it.after(SECOND)

    assert it.time() == [0x20, 0x00, 0x01, 0x01, 0, 0, 0]


def test_time_can_be_set_field_by_field_without_set(it: Clockwork) -> None:
    it.set(chip.DAY_OF_MONTH, 0x31)  # there is no such day in February: the clock waits
    it.set(chip.MONTH, 0x03)
    it.after(3 * SECOND)

    assert it.time() == [0x20, 0x24, 0x04, 0x01, 0x00, 0x00, 0x00]


def test_an_impossible_date_stands_still(it: Clockwork) -> None:
    it.set_time(0x20, 0x23, 0x02, 0x29, 0x12, 0x00, 0x00)
    it.after(100 * SECOND)

    assert it.time() == [0x20, 0x23, 0x02, 0x29, 0x12, 0x00, 0x00]
    assert not it.get(A) & chip.A_UIP


def test_dividers_let_go_begin_with_half_a_second(it: Clockwork) -> None:
    it.set(A, 0x70)
    it.after(10 * SECOND)
    held = it.get(chip.SECONDS)
    it.set(A, 0x26)
    it.after(SECOND // 2 - 1)
    before = it.get(chip.SECONDS)
    it.after(1)

    assert held == before == 0x57
    assert it.get(chip.SECONDS) == 0x58


def test_linux_way_of_setting_the_time(it: Clockwork) -> None:
    control, freq = it.get(B), it.get(A)
    it.set(B, control | chip.B_SET)
    it.set(A, freq | 0x70)
    it.set(chip.MINUTES, 0x10)
    it.set(chip.SECONDS, 0x20)
    it.set(B, control)
    it.set(A, freq)
    it.after(SECOND // 2)

    assert it.time()[-3:] == [0x23, 0x10, 0x21]


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (chip.SECONDS, 0x60),
        (chip.MINUTES, 0x60),
        (chip.HOURS, 0x24),
        (chip.MONTH, 0x13),
        (chip.MONTH, 0x00),
        (chip.SECONDS, 0x0A),
        (chip.MINUTES, 0xA0),
    ],
)
def test_a_field_out_of_range_stands_still(it: Clockwork, index: int, value: int) -> None:
    it.set(index, value)
    it.after(100 * SECOND)

    assert it.get(index) == value


def test_rate_can_be_set_while_the_time_runs(it: Clockwork) -> None:
    it.after(3600 * SECOND)
    it.set(A, 0x2F)
    it.after(TO_BOUNDARY)

    assert it.time() == [0x20, 0x24, 0x02, 0x29, 0x00, 0x59, 0x58]


# --- the update


def test_uip_announces_the_update(it: Clockwork) -> None:
    it.after(TO_BOUNDARY - chip.UPDATE_NS - 1)
    before = it.get(A)
    it.after(1)
    during = it.get(A)
    it.after(chip.UPDATE_NS)

    assert (before, during, it.get(A)) == (0x26, 0xA6, 0x26)


def test_without_uip_there_are_244_us_to_read_a_consistent_time(it: Clockwork) -> None:
    it.after(TO_BOUNDARY - chip.UPDATE_NS - 1)
    free = not it.get(A) & chip.A_UIP
    time = it.time()
    it.after(244_000)

    assert free
    assert it.time() == time


def test_no_uip_while_set(it: Clockwork) -> None:
    it.set(B, chip.B_24H | chip.B_SET)
    it.after(TO_BOUNDARY - 1)

    assert it.get(A) == 0x26


# --- interrupts


def test_update_interrupt_each_second(it: Clockwork) -> None:
    it.set(A, 0x20)  # no periodic flag
    it.set(B, chip.B_24H | chip.B_UIE)
    first = it.rtc.next_event()
    it.after(TO_BOUNDARY)
    it.rtc.update()
    pending = (it.level, it.rtc.next_event())
    flags = it.get(C)

    assert first == it.now
    assert pending == (True, None)
    assert flags == chip.C_IRQF | chip.C_UF
    assert not it.level
    assert it.rtc.next_event() == it.now + SECOND


def test_several_updates_make_one_edge(it: Clockwork) -> None:
    it.set(B, chip.B_24H | chip.B_UIE)
    it.after(5 * SECOND)
    it.rtc.update()
    it.after(5 * SECOND)
    it.rtc.update()

    assert it.rises == 1


def test_flags_come_without_being_enabled(it: Clockwork) -> None:
    it.get(C)
    it.after(TO_BOUNDARY)

    assert it.get(C) == chip.C_UF | chip.C_PF
    assert it.get(C) == 0
    assert it.rises == 0


def test_enabling_an_interrupt_that_is_flagged_raises_the_line(it: Clockwork) -> None:
    it.after(TO_BOUNDARY)
    it.set(B, chip.B_24H | chip.B_UIE)

    assert it.level


def test_set_turns_the_update_interrupt_off(it: Clockwork) -> None:
    it.set(B, chip.B_24H | chip.B_SET | chip.B_UIE)

    assert it.get(B) == chip.B_24H | chip.B_SET


@pytest.mark.parametrize(
    ("rate", "hz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (13, 8), (15, 2)]
)
def test_periodic_interrupt_rates(it: Clockwork, rate: int, hz: int) -> None:
    it.set(A, 0x20 | rate)
    it.set(B, chip.B_24H | chip.B_PIE)
    it.get(C)
    ticks = 0
    end = it.now + SECOND
    while (due := it.rtc.next_event()) is not None and due <= end:
        it.now = due
        it.rtc.tick()
        it.get(C)
        ticks += 1

    assert ticks == it.rises == hz


def test_rate_0_is_no_periodic_interrupt(it: Clockwork) -> None:
    it.set(A, 0x20)
    it.set(B, chip.B_24H | chip.B_PIE)
    it.after(SECOND)

    assert it.rtc.tick() is None
    assert not it.get(C) & chip.C_PF


@pytest.mark.parametrize(
    ("alarm", "wait"),
    [
        ((0x23, 0x59, 0x59), 2),
        ((0x23, 0x59, 0x57), 86_400),
        ((0x00, 0x00, 0x00), 3),
        ((0x12, 0x30, 0xFF), 3 + 12 * 3600 + 30 * 60),
        ((0xC0, 0x05, 0x10), 3 + 5 * 60 + 10),
        ((0xFF, 0xFF, 0xFF), 1),
        ((0xFF, 0xFF, 0x57), 60),
        ((0xFF, 0x59, 0x57), 3600),
    ],
)
def test_alarm(it: Clockwork, alarm: tuple[int, int, int], wait: int) -> None:
    for index, value in zip(
        (chip.HOURS_ALARM, chip.MINUTES_ALARM, chip.SECONDS_ALARM), alarm, strict=True
    ):
        it.set(index, value)
    it.set(B, chip.B_24H | chip.B_AIE)
    due = it.now + TO_BOUNDARY + (wait - 1) * SECOND
    early = it.rtc.next_event()
    it.now = due - 1
    it.rtc.update()
    before = it.level
    it.now = due
    it.rtc.update()

    assert early == due
    assert not before
    assert it.level
    assert it.get(C) & (chip.C_IRQF | chip.C_AF) == chip.C_IRQF | chip.C_AF


def test_an_alarm_at_no_time_never_comes(it: Clockwork) -> None:
    it.set(chip.SECONDS_ALARM, 0x7A)
    it.set(B, chip.B_24H | chip.B_AIE)

    assert it.rtc.next_event() is None


@pytest.mark.parametrize(("alarm", "hours"), [(0x12, 0), (0x01, 1), (0x92, 12), (0x81, 13)])
def test_alarm_in_12_hour_mode(it: Clockwork, alarm: int, hours: int) -> None:
    it.set(B, chip.B_SET)
    it.set(chip.HOURS, 0x91)
    it.set(chip.HOURS_ALARM, alarm)
    it.set(B, chip.B_AIE)

    assert it.rtc.next_event() == it.now + TO_BOUNDARY + (2 + hours * 3600) * SECOND


def test_nothing_more_is_due_while_any_enabled_flag_is_set(it: Clockwork) -> None:
    it.set(B, chip.B_24H | chip.B_PIE | chip.B_UIE)
    it.after(1_000_000)
    it.rtc.update()

    assert it.get(B) & chip.B_UIE
    assert it.rtc.next_event() is None


def test_alarm_of_the_last_second_of_a_day(it: Clockwork) -> None:
    it.after(TO_BOUNDARY + SECOND)
    for index in (chip.HOURS_ALARM, chip.MINUTES_ALARM, chip.SECONDS_ALARM):
        it.set(index, 0xFF)
    it.set(B, chip.B_24H | chip.B_AIE)

    assert it.rtc.next_event() == it.now + SECOND


def test_machine_is_notified_when_the_next_event_changes(it: Clockwork) -> None:
    before = it.changes
    it.set(B, chip.B_24H | chip.B_UIE)
    it.get(C)

    assert it.changes == before + 2


# --- the rest


def test_ram_is_128_bytes_and_keeps(it: Clockwork) -> None:
    for index in range(0x0E, 128):
        it.set(index, index ^ 0x5A)
    it.after(SECOND)

    wrong = [i for i in range(0x0E, 128) if i != chip.CENTURY and it.get(i) != i ^ 0x5A]
    assert wrong == []


def test_index_ignores_the_nmi_bit_and_reads_as_ones(it: Clockwork) -> None:
    assert it.get(0x80 | D) == chip.D_VRT
    assert it.rtc.read(0, 1) == 0xFF


def test_registers_c_and_d_cannot_be_written(it: Clockwork) -> None:
    it.set(C, 0xFF)
    it.set(D, 0)

    assert it.get(C) == 0
    assert it.get(D) == chip.D_VRT


def test_state_moves_and_the_guests_time_goes_on(it: Clockwork) -> None:
    it.set_time(0x20, 0x30, 0x06, 0x15, 0x08, 0x00, 0x00)
    it.set(0x40, 0x77)
    it.set(B, chip.B_24H | chip.B_UIE)
    state = it.rtc.save()
    other = Clockwork(it.wall + 3600, now=5)
    other.rtc.restore(state)

    assert other.time() == [0x20, 0x30, 0x06, 0x15, 0x09, 0x00, 0x00]
    assert other.get(0x40) == 0x77
    assert 5 < (other.rtc.next_event() or 0) <= 5 + SECOND


def test_time_that_stands_is_restored_standing(it: Clockwork) -> None:
    it.set(B, chip.B_24H | chip.B_SET)
    other = Clockwork(it.wall + 3600, now=900_000_005)
    other.rtc.restore(it.rtc.save())
    held = other.get(chip.SECONDS)
    other.set(B, chip.B_24H)
    other.after(TO_BOUNDARY - 1)
    before = other.get(chip.SECONDS)
    other.after(1)

    assert held == before == 0x57
    assert other.get(chip.SECONDS) == 0x58


def test_restored_interrupt_drives_the_line(it: Clockwork) -> None:
    it.set(B, chip.B_24H | chip.B_UIE)
    it.after(SECOND)
    other = Clockwork()
    other.rtc.restore(it.rtc.save())

    assert other.level


def test_saved_state_is_a_copy(it: Clockwork) -> None:
    state = it.rtc.save()
    it.set(0x40, 0x77)

    assert state.chip.ram[0x40] == 0


def test_no_access_raises() -> None:
    rng = random.Random(146818)
    it = Clockwork()
    for _ in range(30_000):
        it.set(rng.choice([rng.randrange(16), rng.randrange(256)]), rng.getrandbits(8))
        it.after(rng.choice([1, 1_000_000, SECOND, 40_000 * SECOND]))
        assert 0 <= it.get(rng.randrange(256)) <= 0xFF
        due = it.rtc.tick()
        assert due is None or due > it.now
    it.rtc.restore(it.rtc.save())


def test_the_end_of_the_calendar_is_survived(it: Clockwork) -> None:
    it.set_time(0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59)
    it.after(SECOND)

    assert it.time() == [0x00, 0x01, 0x01, 0x01, 0, 0, 0]
