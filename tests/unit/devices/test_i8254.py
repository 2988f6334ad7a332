"""The 8254 against its data sheet, on a clock that the test moves."""

import pytest

from ringlet.devices.i8254 import FREQUENCY, I8254

CONTROL = 3
NS = 1_000_000_000


class Pit:
    """A timer whose CLK pulses the test counts; `ticks` are rises of counter 0's output."""

    def __init__(self) -> None:
        self.now_ns = 5_000
        self.origin = self.now_ns
        self.level = False
        self.ticks = 0
        self.changes = 0
        self.pit = I8254(lambda: self.now_ns, self._irq, self._changed)

    def _irq(self, level: bool) -> None:
        self.ticks += level and not self.level
        self.level = level

    def _changed(self) -> None:
        self.changes += 1

    def at(self, pulse: int) -> None:
        """Go to CLK pulse `pulse`."""
        self.now_ns = self.origin + -(-pulse * NS // FREQUENCY)

    def program(self, counter: int, mode: int, count: int, bcd: int = 0) -> None:
        self.pit.write(CONTROL, 1, counter << 6 | 3 << 4 | mode << 1 | bcd)
        self.pit.write(counter, 1, count & 0xFF)
        self.pit.write(counter, 1, count >> 8)

    def count(self, counter: int) -> int:
        """Latch and read."""
        self.pit.write(CONTROL, 1, counter << 6)
        low = self.pit.read(counter, 1)
        return low | self.pit.read(counter, 1) << 8

    def outs(self, counter: int, pulses: range) -> str:
        """The output at each pulse, as H and L."""
        levels = ""
        for pulse in pulses:
            self.at(pulse)
            levels += "H" if self.pit.out(counter) else "L"
        return levels


@pytest.fixture
def pit() -> Pit:
    return Pit()


@pytest.fixture
def gated(pit: Pit) -> Pit:
    """Counter 2, whose gate a PC can move, with the gate high."""
    pit.pit.set_gate(2, True)
    return pit


def test_mode_0_rises_after_count_plus_one(pit: Pit) -> None:
    pit.program(0, 0, 4)

    assert pit.outs(0, range(8)) == "LLLLLHHH"


def test_mode_0_counts_down_and_wraps(pit: Pit) -> None:
    pit.program(0, 0, 4)
    counts = []
    for pulse in (1, 2, 5, 6):
        pit.at(pulse)
        counts.append(pit.count(0))

    assert counts == [4, 3, 0, 0xFFFF]


def test_mode_0_low_gate_stops_counting(gated: Pit) -> None:
    gated.program(2, 0, 4)
    gated.at(3)
    gated.pit.set_gate(2, False)
    gated.at(50)
    held = gated.count(2)
    gated.pit.set_gate(2, True)

    assert held == 2
    assert gated.outs(2, range(51, 54)) == "LHH"


def test_mode_0_first_byte_stops_and_lowers_the_output(pit: Pit) -> None:
    pit.program(0, 0, 2)
    pit.at(10)
    high = pit.pit.out(0)
    pit.pit.write(0, 1, 5)

    assert high
    assert not pit.pit.out(0)


def test_mode_0_gives_one_tick(pit: Pit) -> None:
    pit.program(0, 0, 100)
    pit.at(1000)
    pit.pit.update()

    assert pit.ticks == 1
    assert pit.pit.next_event() is None


def test_mode_1_waits_for_the_gate(gated: Pit) -> None:
    gated.pit.set_gate(2, False)
    gated.program(2, 1, 3)
    before = gated.outs(2, range(5))
    gated.pit.set_gate(2, True)

    assert before == "HHHHH"
    assert gated.outs(2, range(5, 10)) == "LLLHH"


def test_mode_1_is_retriggered(gated: Pit) -> None:
    gated.pit.set_gate(2, False)
    gated.program(2, 1, 3)
    gated.pit.set_gate(2, True)
    gated.at(2)
    gated.pit.set_gate(2, False)
    gated.pit.set_gate(2, True)

    assert gated.outs(2, range(3, 7)) == "LLLH"


def test_mode_2_is_low_for_one_pulse_each_period(pit: Pit) -> None:
    pit.program(0, 2, 3)

    assert pit.outs(0, range(1, 8)) == "HHLHHLH"


def test_mode_2_counts_from_the_divisor_to_one(pit: Pit) -> None:
    pit.program(0, 2, 3)
    counts = []
    for pulse in range(1, 6):
        pit.at(pulse)
        counts.append(pit.count(0))

    assert counts == [3, 2, 1, 3, 2]


def test_mode_2_new_count_waits_for_the_end_of_the_period(pit: Pit) -> None:
    pit.program(0, 2, 4)
    pit.at(2)
    pit.pit.write(0, 1, 2)
    pit.pit.write(0, 1, 0)

    assert pit.outs(0, range(2, 10)) == "HHLHLHLH"


def test_mode_2_low_gate_raises_the_output_and_a_rise_reloads(gated: Pit) -> None:
    gated.program(2, 2, 3)
    gated.at(3)
    low = gated.pit.out(2)
    gated.pit.set_gate(2, False)
    stopped = gated.outs(2, range(3, 8))
    gated.pit.set_gate(2, True)

    assert not low
    assert stopped == "HHHHH"
    assert gated.outs(2, range(8, 12)) == "HHLH"


@pytest.mark.parametrize(
    ("count", "levels"), [(4, "HHLLHHLL"), (5, "HHHLLHHH"), (2, "HLHLHLHL"), (3, "HHLHHLHH")]
)
def test_mode_3_is_a_square_wave(pit: Pit, count: int, levels: str) -> None:
    pit.program(0, 3, count)

    assert pit.outs(0, range(1, 9)) == levels


def test_mode_3_counts_by_two(pit: Pit) -> None:
    pit.program(0, 3, 6)
    counts = []
    for pulse in range(1, 8):
        pit.at(pulse)
        counts.append(pit.count(0))

    assert counts == [6, 4, 2, 6, 4, 2, 6]


def test_mode_3_new_count_waits_for_the_half_period(pit: Pit) -> None:
    pit.program(0, 3, 8)
    pit.at(2)
    pit.pit.write(0, 1, 4)
    pit.pit.write(0, 1, 0)

    assert pit.outs(0, range(1, 13)) == "HHHHLLHHLLHH"


def test_mode_4_strobes_once(pit: Pit) -> None:
    pit.program(0, 4, 3)

    assert pit.outs(0, range(8)) == "HHHHLHHH"


def test_mode_5_strobes_after_the_gate_rises(gated: Pit) -> None:
    gated.pit.set_gate(2, False)
    gated.program(2, 5, 3)
    before = gated.outs(2, range(6))
    gated.pit.set_gate(2, True)

    assert before == "HHHHHH"
    assert gated.outs(2, range(6, 11)) == "HHHLH"


@pytest.mark.parametrize("alias", [6, 7])
def test_modes_6_and_7_are_2_and_3(pit: Pit, alias: int) -> None:
    pit.program(0, alias, 4)
    pit.pit.write(CONTROL, 1, 0xE2)

    assert pit.pit.read(0, 1) >> 1 & 7 == alias - 4


def test_count_zero_is_65536(pit: Pit) -> None:
    pit.program(0, 2, 0)
    pit.at(1 + 0x10000)
    pit.pit.update()
    ticks_in_first_period = pit.ticks
    pit.at(2)
    fresh = Pit()
    fresh.program(0, 2, 0)
    fresh.at(2)

    assert ticks_in_first_period == 2
    assert fresh.count(0) == 0xFFFF


def test_bcd_counts_in_decimal(pit: Pit) -> None:
    pit.program(0, 2, 0x1000, bcd=1)
    pit.at(2)

    assert pit.count(0) == 0x0999


def test_bcd_zero_is_10000(pit: Pit) -> None:
    pit.program(0, 0, 0, bcd=1)
    pit.at(2)

    assert pit.count(0) == 0x9999


def test_lsb_only_and_msb_only_formats(pit: Pit) -> None:
    pit.pit.write(CONTROL, 1, 0x14)
    pit.pit.write(0, 1, 200)
    pit.pit.write(CONTROL, 1, 0xA4)
    pit.pit.write(2, 1, 3)
    pit.at(1)

    assert pit.pit.read(0, 1) == 200
    assert pit.pit.read(2, 1) == 3


def test_latched_count_stays_while_counting_goes_on(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.at(11)
    pit.pit.write(CONTROL, 1, 0)
    pit.at(200)
    pit.pit.write(CONTROL, 1, 0)
    latched = pit.pit.read(0, 1) | pit.pit.read(0, 1) << 8

    assert latched == 990
    assert pit.count(0) == 801


def test_read_back_latches_several_counters(gated: Pit) -> None:
    gated.program(0, 2, 1000)
    gated.program(2, 2, 500)
    gated.at(101)
    gated.pit.write(CONTROL, 1, 0xDA)
    gated.at(200)
    counts = [gated.pit.read(c, 1) | gated.pit.read(c, 1) << 8 for c in (0, 2)]

    assert counts == [900, 400]


def test_read_back_status_then_count(pit: Pit) -> None:
    pit.program(0, 3, 1000)
    pit.at(101)
    pit.pit.write(CONTROL, 1, 0xC2)
    status = pit.pit.read(0, 1)

    assert status == 0x80 | 0x30 | 3 << 1
    assert pit.pit.read(0, 1) | pit.pit.read(0, 1) << 8 == 800


def test_null_count_until_the_count_is_loaded(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.pit.write(CONTROL, 1, 0xE2)
    before = pit.pit.read(0, 1)
    pit.at(1)
    pit.pit.write(CONTROL, 1, 0xE2)

    assert before & 0x40
    assert pit.pit.read(0, 1) & 0x40 == 0


def test_control_word_cannot_be_read(pit: Pit) -> None:
    assert pit.pit.read(CONTROL, 1) == 0xFF


def test_update_at_next_event_gives_exactly_one_tick(pit: Pit) -> None:
    pit.program(0, 2, 11932)
    pit.ticks = 0
    for _ in range(5):
        due = pit.pit.next_event()
        assert due is not None
        pit.now_ns = due - 1
        pit.pit.update()
        before = pit.ticks
        pit.now_ns = due
        pit.pit.update()
        assert pit.ticks == before + 1

    assert pit.ticks == 5
    assert pit.now_ns - pit.origin == pytest.approx(5 * 11932 * NS / FREQUENCY, abs=2000)


def test_ticks_missed_by_a_slow_host_become_one(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.ticks = 0
    pit.at(50_000)
    pit.pit.update()

    assert pit.ticks == 1


def test_programming_is_announced(pit: Pit) -> None:
    pit.program(0, 2, 1000)

    assert pit.changes == 3


def test_restored_timer_goes_on_where_the_saved_one_was(pit: Pit) -> None:
    pit.program(0, 2, 1000)
    pit.at(301)
    saved = pit.pit.save()
    other = Pit()
    other.now_ns = 77_000_000
    other.pit.restore(saved)

    assert other.count(0) == 700
    assert other.pit.next_event() == pytest.approx(77_000_000 + 700 * NS / FREQUENCY, abs=1000)


@pytest.mark.parametrize("mode", [0, 2, 3])
def test_a_tick_is_an_update_and_tells_the_next_event(mode: int) -> None:
    one, other = Pit(), Pit()
    for pit in (one, other):
        pit.program(0, mode, 1000)
    for step in range(200):
        for pit in (one, other):
            pit.now_ns += (step * 791_900) % 900_000
        one.pit.update()
        assert other.pit.tick() == one.pit.next_event()
        assert other.ticks == one.ticks
        assert other.level == one.level
