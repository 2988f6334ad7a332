"""The 16550A against its data sheet (PC16550D)."""

import pytest

from ringlet.devices import uart16550 as u
from ringlet.devices.uart16550 import Uart16550

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
FCR = IIR


class Port:
    """A UART with what it sent and the level of its interrupt line."""

    def __init__(self) -> None:
        self.sent = b""
        self.irq = False
        self.uart = Uart16550(self._sink, self._line)

    def _sink(self, data: bytes) -> None:
        self.sent += data

    def _line(self, level: bool) -> None:
        self.irq = level

    def get(self, register: int) -> int:
        return self.uart.read(register, 1)

    def put(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)


@pytest.fixture
def port() -> Port:
    return Port()


@pytest.fixture
def wired(port: Port) -> Port:
    """The interrupt line enabled by OUT2, as on a PC."""
    port.put(MCR, u.MCR_OUT2)
    return port


def test_reset_values(port: Port) -> None:
    assert [port.get(r) for r in (IER, IIR, LCR, MCR, LSR)] == [0, 0x01, 0, 0, 0x60]


def test_written_bytes_reach_the_sink_unchanged(port: Port) -> None:
    for byte in range(256):
        port.put(DATA, byte)

    assert port.sent == bytes(range(256))


def test_transmitter_is_empty_after_every_byte(port: Port) -> None:
    port.put(DATA, 0x41)

    assert port.get(LSR) & (u.LSR_THRE | u.LSR_TEMT) == u.LSR_THRE | u.LSR_TEMT


def test_dlab_turns_data_and_ier_into_the_divisor(port: Port) -> None:
    port.put(IER, 0x05)
    port.put(LCR, u.LCR_DLAB | 3)
    port.put(DATA, 0x34)
    port.put(IER, 0x12)
    divisor = (port.get(DATA), port.get(IER))
    port.put(LCR, 3)

    assert divisor == (0x34, 0x12)
    assert port.get(IER) == 0x05
    assert port.sent == b""


def test_ier_keeps_four_bits(port: Port) -> None:
    port.put(IER, 0xFF)

    assert port.get(IER) == 0x0F


def test_scratch_register_holds_a_byte(port: Port) -> None:
    port.put(SCR, 0xA5)

    assert port.get(SCR) == 0xA5


def test_lsr_and_msr_ignore_writes(port: Port) -> None:
    before = (port.get(LSR), port.get(MSR))
    port.put(LSR, 0xFF)
    port.put(MSR, 0xFF)

    assert (port.get(LSR), port.get(MSR)) == before


def test_received_byte_sets_data_ready_until_read(port: Port) -> None:
    assert port.uart.receive(b"x") == 1
    ready = port.get(LSR) & u.LSR_DR

    assert ready
    assert port.get(DATA) == ord("x")
    assert port.get(LSR) & u.LSR_DR == 0


def test_without_fifo_one_byte_fits(port: Port) -> None:
    assert port.uart.receive(b"abc") == 1


def test_fifo_holds_sixteen_bytes_in_order(port: Port) -> None:
    port.put(FCR, u.FCR_ENABLE)
    taken = port.uart.receive(bytes(range(20)))

    assert taken == 16
    assert [port.get(DATA) for _ in range(16)] == list(range(16))


def test_iir_shows_that_fifos_are_enabled(port: Port) -> None:
    port.put(FCR, u.FCR_ENABLE)

    assert port.get(IIR) == 0xC1


def test_fifo_bits_are_not_programmed_without_enable(port: Port) -> None:
    port.put(FCR, 0xC0)

    assert port.get(IIR) == 0x01


@pytest.mark.parametrize("change", [u.FCR_ENABLE | u.FCR_RESET_RX, 0])
def test_fifo_reset_and_disable_drop_received_bytes(port: Port, change: int) -> None:
    port.put(FCR, u.FCR_ENABLE)
    port.uart.receive(b"abc")
    port.put(FCR, change)

    assert port.get(LSR) & u.LSR_DR == 0


@pytest.mark.parametrize(("code", "level"), [(0, 1), (1, 4), (2, 8), (3, 14)])
def test_trigger_level_decides_between_data_and_timeout(port: Port, code: int, level: int) -> None:
    port.put(FCR, u.FCR_ENABLE | code << 6)
    port.put(IER, u.IER_RDA)
    port.uart.receive(bytes(level))
    at_level = port.get(IIR) & 0x0F
    port.get(DATA)
    below = port.get(IIR) & 0x0F

    assert at_level == u.IIR_RDA
    assert below == (u.IIR_TIMEOUT if level > 1 else u.IIR_NONE)


def test_enabling_thre_interrupt_raises_it_and_reading_iir_clears_it(wired: Port) -> None:
    wired.put(IER, u.IER_THRE)
    raised = wired.irq
    first, second = wired.get(IIR), wired.get(IIR)

    assert raised
    assert (first, second) == (u.IIR_THRE, u.IIR_NONE)
    assert not wired.irq


def test_each_transmitted_byte_raises_thre_again(wired: Port) -> None:
    wired.put(IER, u.IER_THRE)
    wired.get(IIR)
    wired.put(DATA, 0x41)

    assert wired.irq
    assert wired.get(IIR) == u.IIR_THRE


def test_reading_iir_with_a_higher_source_keeps_thre(wired: Port) -> None:
    wired.put(IER, u.IER_THRE | u.IER_RDA)
    wired.uart.receive(b"a")
    higher = wired.get(IIR)
    wired.get(DATA)

    assert higher == u.IIR_RDA
    assert wired.get(IIR) == u.IIR_THRE


def test_line_status_has_the_highest_priority(wired: Port) -> None:
    wired.put(IER, 0x0F)
    wired.uart.receive(b"a", errors=u.LSR_PE)

    assert wired.get(IIR) == u.IIR_RLS


def test_reading_lsr_clears_the_error_and_its_interrupt(wired: Port) -> None:
    wired.put(IER, u.IER_RLS)
    wired.uart.receive(b"a", errors=u.LSR_FE)
    first, second = wired.get(LSR), wired.get(LSR)

    assert first & u.LSR_FE
    assert second & (u.LSR_FE | u.LSR_DR) == u.LSR_DR
    assert not wired.irq


def test_an_error_deep_in_the_fifo_shows_in_bit_7_only(port: Port) -> None:
    port.put(FCR, u.FCR_ENABLE)
    port.uart.receive(b"a")
    port.uart.receive(b"b", errors=u.LSR_PE)
    lsr = port.get(LSR)

    assert lsr & u.LSR_FIFO_ERROR
    assert lsr & u.LSR_PE == 0


def test_byte_with_an_error_interrupts_when_its_turn_comes(wired: Port) -> None:
    wired.put(FCR, u.FCR_ENABLE)
    wired.put(IER, u.IER_RLS)
    wired.uart.receive(b"a")
    wired.uart.receive(b"b", errors=u.LSR_PE)
    before = wired.irq
    wired.get(DATA)

    assert (before, wired.irq) == (False, True)
    assert wired.get(IIR) & 0x0F == u.IIR_RLS


def test_error_is_read_once_after_a_restore_and_after_a_looped_break(port: Port) -> None:
    port.uart.receive(b"a", errors=u.LSR_PE)
    restored = Port()
    restored.uart.restore(port.uart.save())
    assert [restored.get(LSR) & u.LSR_PE for _ in range(2)] == [u.LSR_PE, 0]

    restored = Port()
    restored.put(MCR, u.MCR_LOOP)
    restored.put(LCR, u.LCR_BREAK)
    assert [restored.get(LSR) & u.LSR_BI for _ in range(2)] == [u.LSR_BI, 0]


def test_modem_change_sets_delta_and_interrupts_until_read(wired: Port) -> None:
    wired.put(IER, u.IER_MS)
    wired.get(MSR)
    wired.uart.set_modem_inputs(u.MSR_DSR | u.MSR_DCD)
    raised = wired.irq
    first, second = wired.get(MSR), wired.get(MSR)

    assert raised
    assert first == u.MSR_DSR | u.MSR_DCD | u.MSR_DCTS
    assert second == u.MSR_DSR | u.MSR_DCD
    assert not wired.irq


def test_only_the_trailing_edge_of_ring_is_a_change(port: Port) -> None:
    everything = u.MSR_CTS | u.MSR_DSR | u.MSR_DCD
    port.uart.set_modem_inputs(everything | u.MSR_RI)
    rising = port.get(MSR)
    port.uart.set_modem_inputs(everything)
    falling = port.get(MSR)

    assert rising & u.MSR_TERI == 0
    assert falling & u.MSR_TERI


def test_without_out2_the_line_stays_low(port: Port) -> None:
    port.put(IER, u.IER_THRE)

    assert not port.irq
    assert port.get(IIR) == u.IIR_THRE


def test_loop_back_returns_bytes_and_sends_none(port: Port) -> None:
    port.put(MCR, u.MCR_LOOP)
    port.put(DATA, 0x5A)

    assert port.get(DATA) == 0x5A
    assert port.sent == b""


@pytest.mark.parametrize(
    ("output", "reads_as"),
    [
        (u.MCR_DTR, u.MSR_DSR),
        (u.MCR_RTS, u.MSR_CTS),
        (u.MCR_OUT1, u.MSR_RI),
        (u.MCR_OUT2, u.MSR_DCD),
    ],
)
def test_loop_back_turns_modem_outputs_to_inputs(port: Port, output: int, reads_as: int) -> None:
    port.put(MCR, u.MCR_LOOP | output)

    assert port.get(MSR) & 0xF0 == reads_as


def test_loop_back_overrun_without_fifo_keeps_the_newer_byte(port: Port) -> None:
    port.put(MCR, u.MCR_LOOP)
    port.put(DATA, 1)
    port.put(DATA, 2)
    lsr = port.get(LSR)

    assert lsr & u.LSR_OE
    assert port.get(DATA) == 2


def test_loop_back_overrun_with_fifo_keeps_the_older_bytes(port: Port) -> None:
    port.put(FCR, u.FCR_ENABLE)
    port.put(MCR, u.MCR_LOOP)
    for byte in range(17):
        port.put(DATA, byte)
    lsr = port.get(LSR)

    assert lsr & u.LSR_OE
    assert [port.get(DATA) for _ in range(16)] == list(range(16))
    assert port.get(LSR) & (u.LSR_OE | u.LSR_DR) == 0


def test_break_in_loop_back_is_received_as_a_zero_byte(port: Port) -> None:
    port.put(MCR, u.MCR_LOOP)
    port.put(LCR, u.LCR_BREAK | 3)
    lsr = port.get(LSR)

    assert lsr & u.LSR_BI
    assert port.get(DATA) == 0


def test_restored_port_goes_on_where_the_saved_one_was(wired: Port) -> None:
    wired.put(FCR, u.FCR_ENABLE)
    wired.put(IER, u.IER_RDA)
    wired.put(SCR, 7)
    wired.uart.receive(b"ab")
    saved = wired.uart.save()
    wired.get(DATA)
    other = Port()
    other.uart.restore(saved)

    assert other.irq
    assert (other.get(SCR), other.get(DATA), other.get(DATA)) == (7, ord("a"), ord("b"))
    assert saved.rx == [(ord("a"), 0), (ord("b"), 0)]


# --- input from a source


class Typist:
    """A source with some bytes, which counts its calls."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked = 0

    def __call__(self, size: int) -> bytes:
        self.asked += 1
        taken, self.data = self.data[:size], self.data[size:]
        return taken


class InputPort(Port):
    """A UART with a source behind it, its interrupt line enabled by OUT2."""

    def __init__(self, data: bytes = b"", *, handshake: bool = False) -> None:
        super().__init__()
        self.source = Typist(data)
        self.uart = Uart16550(self._sink, self._line, self.source, handshake=handshake)
        self.put(MCR, u.MCR_OUT2)

    def drain(self) -> bytes:
        """Read as a driver's receive loop does: while LSR has DR set."""
        got = bytearray()
        while self.get(LSR) & u.LSR_DR:
            got.append(self.get(DATA))
        return bytes(got)

    def handle(self) -> tuple[int, bytes]:
        """Handle an interrupt as a driver does; return the number of passes, and the bytes."""
        rounds, got = 0, b""
        while not self.get(IIR) & u.IIR_NONE:
            got += self.drain()
            rounds += 1
        return rounds, got


def test_a_polling_guest_gets_all_of_the_input() -> None:
    port = InputPort(bytes(range(100)))
    got = b""
    for _ in range(30):
        got += port.drain()

    assert got == bytes(range(100))


def test_input_raises_the_interrupt_when_polled() -> None:
    port = InputPort()
    port.put(FCR, u.FCR_ENABLE)
    port.put(IER, u.IER_RDA)
    before = port.irq
    port.source.data = b"x"
    port.uart.poll()

    assert not before
    assert port.irq


def test_a_driver_gets_one_full_fifo_per_interrupt() -> None:
    port = InputPort()
    port.put(FCR, u.FCR_ENABLE)
    port.put(IER, u.IER_RDA)
    port.source.data = bytes(range(40))
    port.uart.poll()
    handled = []
    while port.irq:
        handled.append(port.handle())

    assert [rounds for rounds, _ in handled] == [1, 1, 1]
    assert b"".join(got for _, got in handled) == bytes(range(40))


def test_the_line_falls_between_two_fifos_full() -> None:
    levels: list[bool] = []
    uart = Uart16550(lambda data: None, levels.append, Typist(bytes(32)))
    uart.write(MCR, 1, u.MCR_OUT2)
    uart.write(FCR, 1, u.FCR_ENABLE)
    uart.write(IER, 1, u.IER_RDA)
    for _ in range(16):
        uart.read(DATA, 1)
    low = levels[-1]
    uart.read(IIR, 1)

    assert not low
    assert levels[-1]


def test_a_driver_that_polls_with_its_interrupt_enabled_is_not_starved() -> None:
    port = InputPort()
    port.put(FCR, u.FCR_ENABLE)
    port.put(IER, u.IER_RDA)
    port.source.data = bytes(20)
    port.uart.poll()
    first = port.drain()
    second = port.drain() or port.drain()

    assert (len(first), len(second)) == (16, 4)


def test_without_fifo_each_byte_is_an_interrupt() -> None:
    port = InputPort(b"abc")
    port.put(IER, u.IER_RDA)
    got = [(port.irq, port.get(DATA)) for _ in range(3)]

    assert got == [(True, ord("a")), (True, ord("b")), (True, ord("c"))]
    assert not port.irq


def test_nothing_overruns_however_much_there_is() -> None:
    port = InputPort(bytes(1000))
    for _ in range(50):
        port.uart.poll()

    assert port.get(LSR) & (u.LSR_OE | u.LSR_DR) == u.LSR_DR
    assert len(port.source.data) == 999


def test_an_idle_source_is_not_asked_again_until_polled() -> None:
    port = InputPort()
    port.put(FCR, u.FCR_ENABLE)
    for _ in range(10):
        port.get(LSR)
    asked = port.source.asked
    for _ in range(10):
        port.get(LSR)
        port.get(IIR)

    assert port.source.asked == asked
    assert port.uart._quiet


def test_with_handshake_input_waits_for_rts() -> None:
    port = InputPort(b"x", handshake=True)
    waiting = port.get(LSR) & u.LSR_DR
    port.uart.poll()
    still = port.get(LSR) & u.LSR_DR
    port.put(MCR, u.MCR_OUT2 | u.MCR_RTS)

    assert (waiting, still) == (0, 0)
    assert port.get(LSR) & u.LSR_DR


def test_rts_taken_back_stops_input_until_it_returns() -> None:
    port = InputPort(b"ab", handshake=True)
    port.put(MCR, u.MCR_RTS)
    port.put(MCR, 0)
    before = port.drain()
    port.put(MCR, u.MCR_RTS)
    after = port.drain() + port.drain()

    assert (before, after) == (b"a", b"b")


def test_a_guest_that_only_polls_gets_input_without_rts() -> None:
    port = InputPort(bytes(range(100)), handshake=True)
    got = b"".join(port.drain() for _ in range(101 * u._POLLS_FOR_INPUT))

    assert got == bytes(range(100))


def test_a_guest_with_interrupts_for_input_gets_it_without_rts() -> None:
    port = InputPort(b"xy", handshake=True)
    before = port.irq
    port.put(IER, u.IER_RDA)

    assert not before
    assert port.irq
    assert port.get(DATA) == ord("x")


def test_what_is_typed_before_linux_opens_the_port_is_not_lost() -> None:
    """Linux's 8250 driver prints, finds out which chip it is, then empties and opens the port."""
    port = InputPort(bytes(range(40)), handshake=True)
    port.put(MCR, 0)
    for _ in range(100):
        port.get(LSR)
        port.put(DATA, ord("."))
    for ier in (0, 0x0F, 0):
        port.put(IER, ier)
    for fcr in (0, 1, 7, 0, 1, 7, 0):
        port.put(FCR, fcr)
        for register in (LSR, DATA, IIR, MSR, LSR, DATA):
            port.get(register)
    lost = 40 - len(port.source.data)
    port.put(MCR, u.MCR_OUT2 | u.MCR_DTR)
    port.put(IER, u.IER_RLS | u.IER_RDA)
    for fcr in (1, 0x81):
        port.put(FCR, fcr)
    port.put(MCR, u.MCR_OUT2 | u.MCR_DTR)
    port.put(MCR, u.MCR_OUT2 | u.MCR_RTS | u.MCR_DTR)
    got = b""
    while port.irq:
        got += port.handle()[1]

    assert lost == 0
    assert got == bytes(range(40))


def test_what_a_guest_drops_comes_again_until_it_asserts_rts() -> None:
    port = InputPort(bytes(range(40)), handshake=True)
    port.put(FCR, u.FCR_ENABLE)
    port.put(IER, u.IER_RDA)
    first = port.get(DATA)
    port.put(FCR, u.FCR_ENABLE | u.FCR_RESET_RX)
    second = port.get(DATA)
    port.put(MCR, u.MCR_RTS)
    port.put(FCR, u.FCR_ENABLE | u.FCR_RESET_RX)
    third = port.get(DATA)

    assert (first, second, third) == (0, 1, 17)


def test_what_was_looped_back_does_not_come_again() -> None:
    port = InputPort(handshake=True)
    port.put(FCR, u.FCR_ENABLE)
    port.put(MCR, u.MCR_LOOP)
    port.put(DATA, ord("x"))
    port.put(MCR, u.MCR_OUT2)
    port.put(FCR, u.FCR_ENABLE | u.FCR_RESET_RX)
    port.put(IER, u.IER_RDA)

    assert not port.irq


def test_loop_back_keeps_input_out() -> None:
    port = InputPort()
    port.put(MCR, u.MCR_LOOP)
    port.source.data = b"x"
    port.uart.poll()
    looped = (port.get(LSR) & u.LSR_DR, port.uart.receive(b"y"))
    port.put(MCR, 0)

    assert looped == (0, 0)
    assert port.drain() == b"x"


def test_a_restored_port_asks_its_source() -> None:
    saved = InputPort(b"x").uart.save()
    other = InputPort()
    other.source.data = b"more"
    other.uart.restore(saved)

    assert b"".join(other.drain() for _ in range(5)) == b"xmore"
