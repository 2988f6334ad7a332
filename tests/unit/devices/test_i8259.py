"""The 8259A pair against its data sheet."""

import pytest

from ringlet.devices.i8259 import I8259Pair

COMMAND, DATA = 0, 1
EOI = 0x20
SPECIFIC_EOI = 0x60


class Pics:
    """A pair initialised as a PC's: master at vector 20h, slave at 28h."""

    def __init__(self, icw1: int = 0x11, icw4: int = 1, slave_icw4: int = 1) -> None:
        self.intr = False
        self.edges = 0
        self.pair = I8259Pair(self._output)
        for chip, base, cascade, last in (
            (self.pair.master, 0x20, 4, icw4),
            (self.pair.slave, 0x28, 2, slave_icw4),
        ):
            chip.write(COMMAND, 1, icw1)
            for word in (base, cascade, last):
                chip.write(DATA, 1, word)

    def _output(self, level: bool) -> None:
        self.edges += level and not self.intr
        self.intr = level

    def raise_(self, irq: int) -> None:
        self.pair.line(irq)(True)

    def lower(self, irq: int) -> None:
        self.pair.line(irq)(False)

    def pulse(self, irq: int) -> None:
        self.raise_(irq)
        self.lower(irq)

    def master(self, value: int) -> None:
        self.pair.master.write(COMMAND, 1, value)

    def slave(self, value: int) -> None:
        self.pair.slave.write(COMMAND, 1, value)

    def irr(self) -> int:
        self.master(0x0A)
        return self.pair.master.read(COMMAND, 1)

    def isr(self) -> int:
        self.master(0x0B)
        return self.pair.master.read(COMMAND, 1)


@pytest.fixture
def pics() -> Pics:
    return Pics()


@pytest.mark.parametrize("irq", [0, 1, 3, 4, 5, 6, 7])
def test_master_request_gives_base_plus_input(pics: Pics, irq: int) -> None:
    pics.raise_(irq)

    assert pics.intr
    assert pics.pair.acknowledge() == 0x20 + irq
    assert not pics.intr


@pytest.mark.parametrize("irq", range(8, 16))
def test_slave_request_comes_through_the_cascade(pics: Pics, irq: int) -> None:
    pics.raise_(irq)
    vector = pics.pair.acknowledge()

    assert vector == 0x20 + irq
    assert pics.isr() == 1 << 2


def test_acknowledge_moves_the_request_from_irr_to_isr(pics: Pics) -> None:
    pics.raise_(3)
    requested = pics.irr()
    pics.pair.acknowledge()

    assert requested == 8
    assert (pics.irr(), pics.isr()) == (0, 8)


def test_lower_input_number_wins(pics: Pics) -> None:
    pics.raise_(5)
    pics.raise_(1)

    assert pics.pair.acknowledge() == 0x21


def test_lower_priority_waits_for_end_of_interrupt(pics: Pics) -> None:
    pics.raise_(1)
    pics.pair.acknowledge()
    pics.raise_(5)
    waiting = pics.intr
    pics.master(EOI)

    assert not waiting
    assert pics.intr
    assert pics.pair.acknowledge() == 0x25


def test_higher_priority_nests(pics: Pics) -> None:
    pics.raise_(5)
    pics.pair.acknowledge()
    pics.raise_(1)

    assert pics.pair.acknowledge() == 0x21
    assert pics.isr() == 0x22


def test_non_specific_eoi_ends_the_highest_in_service(pics: Pics) -> None:
    pics.raise_(5)
    pics.pair.acknowledge()
    pics.raise_(1)
    pics.pair.acknowledge()
    pics.master(EOI)

    assert pics.isr() == 0x20


def test_specific_eoi_ends_the_one_named(pics: Pics) -> None:
    pics.raise_(5)
    pics.pair.acknowledge()
    pics.raise_(1)
    pics.pair.acknowledge()
    pics.master(SPECIFIC_EOI | 5)

    assert pics.isr() == 0x02


def test_masked_request_is_latched_and_comes_when_unmasked(pics: Pics) -> None:
    pics.pair.master.write(DATA, 1, 1 << 4)
    pics.pulse(4)
    masked = pics.intr
    pics.pair.master.write(DATA, 1, 0)

    assert not masked
    assert pics.intr
    assert pics.pair.acknowledge() == 0x24


def test_mask_register_reads_back(pics: Pics) -> None:
    pics.pair.slave.write(DATA, 1, 0xA5)

    assert pics.pair.slave.read(DATA, 1) == 0xA5


def test_edge_mode_needs_a_new_edge(pics: Pics) -> None:
    pics.raise_(4)
    pics.pair.acknowledge()
    pics.raise_(4)
    pics.master(EOI)
    still_high = pics.intr
    pics.pulse(4)

    assert not still_high
    assert not pics.intr
    pics.raise_(4)
    assert pics.intr


def test_level_mode_repeats_while_the_line_is_high() -> None:
    pics = Pics(icw1=0x19)
    pics.raise_(4)
    pics.pair.acknowledge()
    pics.master(EOI)
    again = pics.intr
    pics.lower(4)

    assert again
    assert not pics.intr


def test_elcr_makes_single_inputs_level_triggered(pics: Pics) -> None:
    pics.pair.master_elcr.write(0, 1, 0xFF)
    pics.raise_(5)
    pics.lower(5)
    level = pics.intr
    pics.pulse(0)

    assert pics.pair.master_elcr.read(0, 1) == 0xF8
    assert not level
    assert pics.intr


def test_request_that_goes_away_is_spurious_7() -> None:
    pics = Pics(icw1=0x19)
    pics.raise_(4)
    pics.lower(4)

    assert pics.pair.acknowledge() == 0x27
    assert pics.isr() == 0


def test_slave_request_that_goes_away_is_spurious_15(pics: Pics) -> None:
    pics.pair.slave_elcr.write(0, 1, 0xFF)
    pics.raise_(10)
    pics.lower(10)

    assert pics.pair.acknowledge() == 0x2F
    assert pics.isr() == 1 << 2


def test_automatic_eoi_leaves_nothing_in_service() -> None:
    pics = Pics(icw4=3)
    pics.raise_(4)
    pics.pair.acknowledge()

    assert pics.isr() == 0


def test_two_slave_requests_with_automatic_eoi_make_two_edges() -> None:
    pics = Pics(icw4=3, slave_icw4=3)
    pics.raise_(8)
    pics.raise_(9)
    first = pics.pair.acknowledge()

    assert first == 0x28
    assert pics.intr
    assert pics.pair.acknowledge() == 0x29


def test_rotate_on_non_specific_eoi_puts_it_last(pics: Pics) -> None:
    pics.raise_(3)
    pics.pair.acknowledge()
    pics.master(0xA0)
    pics.pulse(3)
    pics.pulse(5)

    assert pics.pair.acknowledge() == 0x25


def test_set_priority_command_names_the_lowest(pics: Pics) -> None:
    pics.master(0xC0 | 4)
    pics.pulse(0)
    pics.pulse(5)

    assert pics.pair.acknowledge() == 0x25


def test_rotate_on_specific_eoi(pics: Pics) -> None:
    pics.raise_(0)
    pics.pair.acknowledge()
    pics.master(0xE0)
    pics.pulse(0)
    pics.pulse(7)

    assert pics.pair.acknowledge() == 0x27


def test_rotate_in_automatic_eoi_mode() -> None:
    pics = Pics(icw4=3)
    pics.master(0x80)
    pics.pulse(1)
    pics.pair.acknowledge()
    pics.pulse(1)
    pics.pulse(6)

    assert pics.pair.acknowledge() == 0x26


def test_special_mask_lets_lower_priorities_through(pics: Pics) -> None:
    pics.raise_(1)
    pics.pair.acknowledge()
    pics.raise_(6)
    before = pics.intr
    pics.pair.master.write(DATA, 1, 1 << 1)
    masked = pics.intr
    pics.master(0x68)

    assert (before, masked) == (False, False)
    assert pics.intr
    assert pics.pair.acknowledge() == 0x26


def test_special_mask_is_switched_off_again(pics: Pics) -> None:
    pics.raise_(1)
    pics.pair.acknowledge()
    pics.pair.master.write(DATA, 1, 1 << 1)
    pics.master(0x68)
    pics.master(0x48)
    pics.raise_(6)

    assert not pics.intr


def test_special_fully_nested_mode_lets_the_slave_nest() -> None:
    pics = Pics(icw4=0x11)
    pics.raise_(12)
    pics.pair.acknowledge()
    pics.raise_(9)

    assert pics.intr
    assert pics.pair.acknowledge() == 0x29


def test_without_it_the_slave_waits(pics: Pics) -> None:
    pics.raise_(12)
    pics.pair.acknowledge()
    pics.raise_(9)

    assert not pics.intr


def test_poll_command_acknowledges_by_reading(pics: Pics) -> None:
    pics.raise_(6)
    pics.master(0x0C)
    polled = pics.pair.master.read(COMMAND, 1)

    assert polled == 0x86
    assert pics.isr() == 0x40
    assert not pics.intr


def test_poll_without_a_request_has_bit_7_clear(pics: Pics) -> None:
    pics.master(0x0C)

    assert pics.pair.master.read(COMMAND, 1) & 0x80 == 0


def test_initialisation_clears_mask_and_service_and_forgets_edges(pics: Pics) -> None:
    pics.pair.master.write(DATA, 1, 0xFF)
    pics.raise_(3)
    for offset, word in ((COMMAND, 0x11), (DATA, 0x40), (DATA, 4), (DATA, 1)):
        pics.pair.master.write(offset, 1, word)

    assert pics.pair.master.read(DATA, 1) == 0
    assert (pics.irr(), pics.isr()) == (0, 0)
    pics.lower(3)
    pics.raise_(3)
    assert pics.pair.acknowledge() == 0x43


def test_single_mode_and_no_icw4_shorten_the_initialisation(pics: Pics) -> None:
    pics.pair.master.write(COMMAND, 1, 0x12)
    pics.pair.master.write(DATA, 1, 0x50)
    pics.pair.master.write(DATA, 1, 0x0F)

    assert pics.pair.master.read(DATA, 1) == 0x0F


def test_accepts_tells_what_a_request_would_do(pics: Pics) -> None:
    free = pics.pair.accepts(0), pics.pair.accepts(12)
    pics.pair.master.write(DATA, 1, 0x04)
    cascade_masked = pics.pair.accepts(0), pics.pair.accepts(12)
    pics.raise_(0)
    pics.pair.acknowledge()

    assert free == (True, True)
    assert cascade_masked == (True, False)
    assert not pics.pair.accepts(1)


def test_restored_pair_goes_on_where_the_saved_one_was(pics: Pics) -> None:
    pics.raise_(12)
    saved = pics.pair.save()
    pics.pair.acknowledge()
    other = Pics()
    other.pair.restore(saved)

    assert other.intr
    assert other.pair.acknowledge() == 0x2C
