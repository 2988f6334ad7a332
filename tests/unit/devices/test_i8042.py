"""The keyboard controller and the keyboard, as software uses them."""

import random

import pytest

from ringlet.devices import i8042 as chip
from ringlet.devices.i8042 import I8042, Ps2Device
from ringlet.devices.ps2_keyboard import QUEUE_SIZE, Ps2Keyboard
from ringlet.devices.wiring import PortDevice

CTR = chip.READ_RAM
SET_CTR = chip.WRITE_RAM


class Board:
    """A controller, and the recorded levels of its lines."""

    def __init__(self, keyboard: Ps2Device | None = None, aux: Ps2Device | None = None) -> None:
        self.resets = 0
        self.levels = {1: False, 12: False}
        self.rises = {1: 0, 12: 0}
        self.a20: list[bool] = []
        self.chip = I8042(
            self._reset,
            lambda on: self._irq(1, on),
            lambda on: self._irq(12, on),
            keyboard,
            aux,
            self.a20.append,
        )

    def _reset(self) -> None:
        self.resets += 1

    def _irq(self, number: int, level: bool) -> None:
        self.rises[number] += level and not self.levels[number]
        self.levels[number] = level

    def status(self) -> int:
        return self.chip.command.read(0, 1)

    def command(self, value: int, *parameters: int) -> None:
        self.chip.command.write(0, 1, value)
        for parameter in parameters:
            self.chip.data.write(0, 1, parameter)

    def data(self, value: int) -> None:
        self.chip.data.write(0, 1, value)

    def answers(self) -> list[int]:
        """Return all bytes that can be read."""
        got = []
        while self.status() & chip.STR_OBF:
            got.append(self.chip.data.read(0, 1))
        return got

    def ask(self, value: int, *parameters: int) -> list[int]:
        self.command(value, *parameters)
        return self.answers()


@pytest.fixture
def board() -> Board:
    return Board(Ps2Keyboard())


@pytest.mark.parametrize(
    ("command", "answer"),
    [(chip.SELF_TEST, 0x55), (chip.KBD_TEST, 0), (chip.AUX_TEST, 0), (chip.READ_INPUT, 0x80)],
)
def test_tests_pass(board: Board, command: int, answer: int) -> None:
    assert board.ask(command) == [answer]


def test_nothing_waits_at_the_start(board: Board) -> None:
    assert not board.status() & chip.STR_OBF


def test_status_tells_command_from_data(board: Board) -> None:
    board.command(chip.KBD_ENABLE)
    after_command = board.status()
    board.data(0xF4)

    assert after_command & chip.STR_COMMAND
    assert not board.status() & chip.STR_COMMAND


def test_command_byte_reads_as_written(board: Board) -> None:
    board.command(SET_CTR, 0xFF)

    assert board.ask(CTR) == [0x7F]


def test_controllers_ram_reads_as_written(board: Board) -> None:
    board.command(chip.WRITE_RAM + 31, 0xA5)

    assert board.ask(chip.READ_RAM + 31) == [0xA5]


@pytest.mark.parametrize(
    ("off", "on", "bit"),
    [
        (chip.AUX_DISABLE, chip.AUX_ENABLE, chip.CTR_AUX_DISABLE),
        (chip.KBD_DISABLE, chip.KBD_ENABLE, chip.CTR_KBD_DISABLE),
    ],
)
def test_interfaces_are_disabled_and_enabled(board: Board, off: int, on: int, bit: int) -> None:
    board.command(off)
    disabled = board.ask(CTR)[0]
    board.command(on)

    assert disabled & bit
    assert not board.ask(CTR)[0] & bit


def test_aux_loop_comes_back_as_if_from_the_mouse(board: Board) -> None:
    board.command(SET_CTR, chip.CTR_AUX_INT)
    board.command(chip.AUX_LOOP, 0x5A)
    status = board.status()

    assert status & (chip.STR_OBF | chip.STR_AUX) == chip.STR_OBF | chip.STR_AUX
    assert board.levels == {1: False, 12: True}
    assert board.answers() == [0x5A]
    assert board.levels == {1: False, 12: False}


def test_keyboard_loop_interrupts_as_the_keyboard(board: Board) -> None:
    board.command(SET_CTR, chip.CTR_KBD_INT)
    board.command(chip.KBD_LOOP, 0x1C)

    assert board.levels == {1: True, 12: False}
    assert board.answers() == [0x1C]


def test_no_interrupt_unless_enabled(board: Board) -> None:
    board.command(SET_CTR, 0)
    board.command(chip.KBD_LOOP, 1)
    board.answers()
    board.command(chip.AUX_LOOP, 1)

    assert board.rises == {1: 0, 12: 0}


def test_a_mouse_that_is_not_there_times_out_at_once(board: Board) -> None:
    board.command(chip.AUX_SEND, 0xF2)

    assert board.status() & (chip.STR_OBF | chip.STR_AUX | chip.STR_TIMEOUT) == 0x61
    assert board.answers() == [0xFE]


def test_a_keyboard_that_is_not_there_times_out_at_once() -> None:
    board = Board()
    board.data(0xFF)

    assert board.status() & (chip.STR_OBF | chip.STR_AUX | chip.STR_TIMEOUT) == 0x41
    assert board.answers() == [0xFE]


@pytest.mark.parametrize("value", [0xFE, 0xF0])
def test_pulse_of_bit_0_resets(board: Board, value: int) -> None:
    board.command(value)

    assert board.resets == 1


def test_pulse_of_nothing_does_nothing(board: Board) -> None:
    board.command(0xFF)

    assert board.resets == 0


def test_output_port_resets_when_bit_0_is_cleared(board: Board) -> None:
    board.command(chip.WRITE_OUTPUT, 0x03)
    before = board.resets
    board.command(chip.WRITE_OUTPUT, 0x02)

    assert (before, board.resets) == (0, 1)


def test_output_port_reads_a20_and_reset(board: Board) -> None:
    assert board.ask(chip.READ_OUTPUT)[0] & 3 == 3


def test_a20_is_driven_from_the_start_and_as_written(board: Board) -> None:
    board.command(chip.WRITE_OUTPUT, 0x01)
    board.command(chip.WRITE_OUTPUT, 0x03)
    board.command(chip.A20_DISABLE)
    state = board.chip.save()
    board.command(chip.A20_ENABLE)
    board.chip.restore(state)

    assert board.a20 == [True, False, True, False, True, False]


def test_empty_buffer_reads_its_last_byte_again(board: Board) -> None:
    board.ask(chip.SELF_TEST)

    assert board.chip.data.read(0, 1) == 0x55


def test_status_bits_are_where_the_data_sheet_has_them(board: Board) -> None:
    idle = board.status()
    board.command(chip.SELF_TEST)

    assert (idle, board.status()) == (0x14, 0x1D)


def test_self_test_disables_both_interfaces(board: Board) -> None:
    board.command(chip.AUX_ENABLE)
    board.ask(chip.SELF_TEST)

    assert board.ask(CTR) == [0x74]


def test_aux_disable_is_bit_5_of_the_command_byte(board: Board) -> None:
    board.command(chip.AUX_ENABLE)
    enabled = board.ask(CTR)[0]
    board.command(chip.AUX_DISABLE)

    assert (enabled & 0x20, board.ask(CTR)[0] & 0x20) == (0, 0x20)


@pytest.mark.parametrize(("ctr", "inputs"), [(0x00, 3), (0x10, 2), (0x20, 1), (0x30, 0)])
def test_test_inputs_are_the_clocks(board: Board, ctr: int, inputs: int) -> None:
    board.command(SET_CTR, ctr)

    assert board.ask(chip.READ_TEST_INPUTS) == [inputs]


def test_output_port_shows_a20_as_written_and_what_is_full(board: Board) -> None:
    board.command(chip.WRITE_OUTPUT, 0x01)
    shut = board.ask(chip.READ_OUTPUT)
    board.command(chip.WRITE_OUTPUT, 0xFF)
    open_ = board.ask(chip.READ_OUTPUT)
    board.command(chip.KBD_LOOP, 0)
    board.command(chip.READ_OUTPUT)
    keyboard = board.answers()
    board.command(chip.AUX_LOOP, 0)
    board.command(chip.READ_OUTPUT)

    assert [*shut, *open_, *keyboard, *board.answers()] == [0xC1, 0xC3, 0xD3, 0xE3]


def test_a_byte_that_is_not_read_hides_the_keyboards(board: Board) -> None:
    board.command(SET_CTR, 0)
    board.command(chip.KBD_LOOP, 0x11)
    board.data(0xEE)

    assert board.answers() == [0x11, 0xEE]


def test_a_mouse_gets_its_bytes_and_is_heard() -> None:
    mouse = Ps2Keyboard()  # any device will do
    board = Board(aux=mouse)
    board.command(SET_CTR, chip.CTR_AUX_INT | chip.CTR_TRANSLATE)
    board.command(chip.AUX_SEND, 0xF2)
    board.chip.data.read(0, 1)
    board.command(chip.AUX_DISABLE)
    disabled = board.answers()
    board.command(chip.AUX_ENABLE)

    # Bytes of a mouse are not translated.
    assert [*disabled, *board.answers()] == [0xAB, 0x83]
    assert board.rises == {1: 0, 12: 3}


def test_enabling_the_keyboard_by_the_command_byte_lets_it_speak(board: Board) -> None:
    board.data(0xF2)
    board.command(chip.KBD_DISABLE)
    board.answers()
    board.command(SET_CTR, 0)

    assert board.answers() == [0xAB, 0x83]


# --- the keyboard


def test_keyboard_resets(board: Board) -> None:
    board.data(0xFF)

    assert board.answers() == [0xFA, 0xAA]


def test_keyboard_identifies_itself_translated_or_not(board: Board) -> None:
    board.command(SET_CTR, chip.CTR_TRANSLATE)
    board.data(0xF2)
    translated = board.answers()
    board.command(SET_CTR, 0)
    board.data(0xF2)

    assert translated == [0xFA, 0xAB, 0x41]
    assert board.answers() == [0xFA, 0xAB, 0x83]


def test_each_byte_of_an_answer_is_an_edge(board: Board) -> None:
    board.command(SET_CTR, chip.CTR_KBD_INT)
    board.data(0xF2)
    board.answers()

    assert board.rises[1] == 3
    assert not board.levels[1]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ([0xED, 0x07], [0xFA, 0xFA]),
        ([0xF3, 0x2B], [0xFA, 0xFA]),
        ([0xF0, 0x00], [0xFA, 0xFA, 0x02]),
        ([0xF0, 0x09], [0xFA, 0xFE]),
        ([0xEE], [0xEE]),
        ([0xF4], [0xFA]),
        ([0xF5], [0xFA]),
        ([0xF6], [0xFA]),
        ([0xFA], [0xFA]),
        ([0xE0], [0xFE]),
        ([0xED, 0xF4], [0xFA, 0xFA]),
        ([0xEE, 0xFE], [0xEE, 0xEE]),
    ],
)
def test_keyboard_commands(board: Board, sent: list[int], answer: list[int]) -> None:
    got = []
    for byte in sent:
        board.data(byte)
        got += board.answers()

    assert got == answer


def test_scan_code_set_is_kept_until_defaults() -> None:
    board = Board(Ps2Keyboard())
    board.command(SET_CTR, 0)
    for byte in (0xF0, 3, 0xF0, 0):
        board.data(byte)
    chosen = board.answers()
    for byte in (0xF6, 0xF0, 0):
        board.data(byte)

    assert chosen[-1] == 3
    assert board.answers()[-1] == 2


def test_a_disabled_keyboard_keeps_its_bytes(board: Board) -> None:
    board.data(0xF2)
    board.command(chip.KBD_DISABLE)
    disabled = board.answers()
    board.command(chip.KBD_ENABLE)

    assert disabled == [0xFA]
    assert board.answers() == [0xAB, 0x41]


def test_state_moves(board: Board) -> None:
    board.command(SET_CTR, chip.CTR_KBD_INT)
    board.command(chip.KBD_LOOP, 0x1C)
    other = Board()
    other.chip.restore(board.chip.save())
    board.answers()

    assert other.levels[1]
    assert other.answers() == [0x1C]


def test_keyboards_state_moves() -> None:
    keyboard, other = Ps2Keyboard(), Ps2Keyboard()
    keyboard.send(0xF2)
    other.restore(keyboard.save())
    keyboard.take()

    assert [other.take() for _ in range(4)] == [0xFA, 0xAB, 0x83, None]


def test_no_access_raises_and_nothing_grows() -> None:
    rng = random.Random(8042)
    keyboard = Ps2Keyboard()
    board = Board(keyboard)
    for _ in range(30_000):
        port: PortDevice = board.chip.data if rng.random() < 0.5 else board.chip.command
        port.write(0, 1, rng.choice([0xFE, rng.getrandbits(8)]))
        if rng.random() < 0.3:
            assert 0 <= port.read(0, 1) <= 0xFF
        assert len(keyboard.save().queue) <= QUEUE_SIZE
    assert len(board.chip.save().ram) == chip.RAM_SIZE
