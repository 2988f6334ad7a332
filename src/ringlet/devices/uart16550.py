"""The 16550A serial port (National Semiconductor PC16550D data sheet).

There is no physical line: a byte written to THR reaches the sink at once, so the transmitter is
always empty, and a character timeout is due as soon as the receive FIFO holds fewer bytes than its
trigger level.  The baud rate is stored and has no effect.

The chip requests input from a source, so input cannot overrun it.  It requests more only when the
guest has found the FIFO empty.  Otherwise a driver would continue to read as long as there is data,
and give up after a while with the interrupt line still high.

A driver such as Linux's empties the port when it opens it, long after the first use, so with
`handshake` a byte comes only when the guest wants one.  It does when it asserts RTS, as drivers do
while the port is open, when the port is to interrupt it for input, or when it waits for input by
reading LSR again and again, as small kernels do that set none of this.  What the guest drops with
the FIFO before it asserts RTS comes again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ringlet.devices.wiring import Line, unconnected

Sink = Callable[[bytes], None]
"""Receives the bytes that the guest sends."""

Source = Callable[[int], bytes]
"""Returns at most the given number of bytes for the guest, or fewer if no more are available."""

# Interrupt Enable Register
IER_RDA = 1 << 0  # received data available, and character timeout
IER_THRE = 1 << 1  # transmitter holding register empty
IER_RLS = 1 << 2  # receiver line status
IER_MS = 1 << 3  # modem status

# Interrupt Identification Register
IIR_NONE = 0x01
IIR_MODEM = 0x00
IIR_THRE = 0x02
IIR_RDA = 0x04
IIR_RLS = 0x06
IIR_TIMEOUT = 0x0C
IIR_FIFO_ENABLED = 0xC0

# FIFO Control Register
FCR_ENABLE = 1 << 0
FCR_RESET_RX = 1 << 1
FCR_TRIGGER_SHIFT = 6
TRIGGER_LEVELS = (1, 4, 8, 14)
FIFO_SIZE = 16

# Line Control Register
LCR_BREAK = 1 << 6
LCR_DLAB = 1 << 7

# Modem Control Register
MCR_DTR = 1 << 0
MCR_RTS = 1 << 1
MCR_OUT1 = 1 << 2
MCR_OUT2 = 1 << 3  # on a PC, connects the interrupt line
MCR_LOOP = 1 << 4
MCR_MASK = 0x1F

# Line Status Register
LSR_DR = 1 << 0
LSR_OE = 1 << 1
LSR_PE = 1 << 2
LSR_FE = 1 << 3
LSR_BI = 1 << 4
LSR_THRE = 1 << 5
LSR_TEMT = 1 << 6
LSR_FIFO_ERROR = 1 << 7
_LSR_BYTE_ERRORS = LSR_PE | LSR_FE | LSR_BI
_LSR_ERRORS = LSR_OE | _LSR_BYTE_ERRORS

# Modem Status Register: inputs in bits 4-7, changes since the last read in bits 0-3
MSR_DCTS = 1 << 0
MSR_DDSR = 1 << 1
MSR_TERI = 1 << 2  # trailing edge of RI
MSR_DDCD = 1 << 3
MSR_CTS = 1 << 4
MSR_DSR = 1 << 5
MSR_RI = 1 << 6
MSR_DCD = 1 << 7
_MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD

_LSR_OFFSET = 5
_LSR_IDLE = LSR_THRE | LSR_TEMT
_POLLS_FOR_INPUT = 16
"""More than a driver reads LSR in a row that sends, as the transmitter is always empty."""
_BYTES = [bytes([byte]) for byte in range(256)]


@dataclass(slots=True)
class Uart16550State:
    """The registers, by their data-sheet names, and the receive FIFO as (byte, LSR errors)."""

    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    overrun: int = 0
    msr: int = _MSR_CONNECTED
    scr: int = 0
    divisor: int = 12
    thre_pending: bool = False
    rx: list[tuple[int, int]] = field(default_factory=list)


class Uart16550:
    """One serial port at eight ports of one byte.

    `poll` and the guest's accesses request input from `source`.  With `handshake`, they do so only
    while the guest wants it, as the module says.
    """

    def __init__(
        self,
        sink: Sink,
        irq: Line = unconnected,
        source: Source | None = None,
        *,
        handshake: bool = False,
    ) -> None:
        self._sink = sink
        self._irq = irq
        self._source = source
        self._handshake = handshake
        self._waiting = source is not None
        """Whether the source may have bytes."""
        self._found_empty = False
        """Whether the guest's last read was of LSR without DR."""
        self._dropped = b""
        """Bytes of the source that come again."""
        self._looped = False
        """Whether the receive FIFO may hold a byte of the loop-back."""
        self._polls = 0
        """The number of reads of LSR without DR since the guest has used another register."""
        self._s = Uart16550State()
        self._quiet = True
        """Whether the port is used for output only: no interrupts, input, divisor or loop-back."""
        self._sends = True
        """Whether writes at offset 0 go to the sink: no divisor latch, no loop-back."""
        self._flawed = False
        """Whether the receive FIFO may hold a byte with errors."""
        self._readers = (
            self._read_data, self._read_ier, self._read_iir, lambda: self._s.lcr,
            lambda: self._s.mcr, self._read_lsr, self._read_msr, lambda: self._s.scr,
        )  # fmt: skip
        self._writers = (
            self._write_data, self._write_ier, self._write_fcr, self._write_lcr,
            self._write_mcr, self._ignore, self._ignore, self._write_scr,
        )  # fmt: skip
        self._update()

    # --- the bus

    def read(self, offset: int, size: int) -> int:
        """Return register `offset`."""
        if offset == _LSR_OFFSET and self._quiet:
            return _LSR_IDLE
        if offset != _LSR_OFFSET:
            self._found_empty = False
            self._polls = 0
        return self._readers[offset]()

    def write(self, offset: int, size: int, value: int) -> None:
        """Write register `offset`."""
        self._polls = 0
        if offset == 0 and self._quiet:  # the short path for a console whose driver polls
            self._sink(_BYTES[value])
            return
        if offset or not self._sends:
            self._writers[offset](value)
            return
        self._sink(_BYTES[value])
        if not self._s.thre_pending:
            self._s.thre_pending = True
            self._update()

    # --- the line

    def receive(self, data: bytes, errors: int = 0) -> int:
        """Receive bytes from the line, each with the LSR error bits `errors`; return how many fit.

        The caller keeps the rest for later; only a looped-back byte can cause an overrun.
        """
        if self._s.mcr & MCR_LOOP:  # the receiver is disconnected from the line
            return 0
        taken = data[: max(0, self._capacity() - len(self._s.rx))]
        self._s.rx.extend((byte, errors) for byte in taken)
        self._flawed = self._flawed or errors != 0
        self._update()
        return len(taken)

    def poll(self) -> None:
        """Request input from the source, which has bytes again after it had none."""
        self._waiting = self._source is not None
        self._refill()
        self._update()

    def set_modem_inputs(self, inputs: int) -> None:
        """Set CTS, DSR, RI and DCD from the bits MSR_CTS to MSR_DCD."""
        if not self._s.mcr & MCR_LOOP:
            self._change_modem(inputs)

    # --- state

    def save(self) -> Uart16550State:
        """Return a copy of the state."""
        return replace(self._s, rx=list(self._s.rx))

    def restore(self, state: Uart16550State) -> None:
        """Restore `state` and drive the interrupt line accordingly."""
        self._s = replace(state, rx=list(state.rx))
        self._flawed = any(errors for _, errors in state.rx)
        self.poll()

    # --- registers

    def _read_data(self) -> int:
        s = self._s
        if s.lcr & LCR_DLAB:
            return s.divisor & 0xFF
        if not s.rx:
            return 0
        byte, _ = s.rx.pop(0)
        if s.rx and not self._flawed:  # the pending interrupt has not changed
            return byte
        if not s.fcr & FCR_ENABLE:  # without FIFOs, the next character is already waiting
            self._refill()
        self._update()
        return byte

    def _write_data(self, value: int) -> None:
        s = self._s
        if s.lcr & LCR_DLAB:
            s.divisor = s.divisor & 0xFF00 | value
            return
        self._loop_back(value, 0)
        s.thre_pending = True
        self._update()

    def _read_ier(self) -> int:
        return self._s.divisor >> 8 if self._s.lcr & LCR_DLAB else self._s.ier

    def _write_ier(self, value: int) -> None:
        s = self._s
        if s.lcr & LCR_DLAB:
            s.divisor = s.divisor & 0xFF | value << 8
            return
        if value & IER_THRE and not s.ier & IER_THRE:
            s.thre_pending = True  # enabling the interrupt while THR is empty raises it at once
        s.ier = value & 0x0F
        self._refill()
        self._update()

    def _read_iir(self) -> int:
        iir = self._interrupt()
        if iir == IIR_THRE:
            self._s.thre_pending = False
            self._update()
        elif iir == IIR_NONE:
            self._refill()
        return iir | (IIR_FIFO_ENABLED if self._s.fcr & FCR_ENABLE else 0)

    def _write_fcr(self, value: int) -> None:
        s = self._s
        if (value ^ s.fcr) & FCR_ENABLE or (value & FCR_ENABLE and value & FCR_RESET_RX):
            self._drop()
        # The other bits cannot be programmed while FIFOs are off.
        s.fcr = value & 0xC9 if value & FCR_ENABLE else 0
        self._refill()
        self._update()

    def _write_lcr(self, value: int) -> None:
        s = self._s
        starts_break = value & ~s.lcr & LCR_BREAK
        s.lcr = value
        if starts_break and s.mcr & MCR_LOOP:
            self._loop_back(0, LSR_BI | LSR_FE)
        self._update()

    def _write_mcr(self, value: int) -> None:
        s = self._s
        s.mcr = value & MCR_MASK
        if s.mcr & MCR_LOOP:
            inputs = 0
            for output, reads_as in (
                (MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD),
            ):  # fmt: skip
                inputs |= reads_as if value & output else 0
        else:
            inputs = _MSR_CONNECTED
        self._refill()
        self._change_modem(inputs)

    def _read_lsr(self) -> int:
        s = self._s
        lsr = LSR_THRE | LSR_TEMT | s.overrun
        if s.rx:
            byte, errors = s.rx[0]
            lsr |= LSR_DR | errors
            if self._flawed:
                if s.fcr & FCR_ENABLE and any(bits for _, bits in s.rx):
                    lsr |= LSR_FIFO_ERROR
                s.rx[0] = (byte, 0)
        if lsr & _LSR_ERRORS:
            s.overrun = 0
            self._update()
        if not lsr & LSR_DR:
            # A driver with interrupts reads IIR next; a driver that reads LSR again is polling.
            self._polls += 1
            if self._found_empty or not s.ier & IER_RDA:
                self._refill()
            self._found_empty = True
        return lsr

    def _read_msr(self) -> int:
        msr = self._s.msr
        self._s.msr = msr & 0xF0
        self._update()
        return msr

    def _write_scr(self, value: int) -> None:
        self._s.scr = value

    def _ignore(self, value: int) -> None:
        """Ignore a write to LSR or MSR, which are read only except in factory tests."""

    # --- inside

    def _capacity(self) -> int:
        return FIFO_SIZE if self._s.fcr & FCR_ENABLE else 1

    def _refill(self) -> None:
        """Fill the receive FIFO from the source after the guest found it empty."""
        s = self._s
        if not self._waiting or self._source is None or s.rx or s.mcr & MCR_LOOP:
            return
        if self._handshake and not self._is_wanted():
            return
        room = self._capacity()
        data, self._dropped = self._dropped[:room], self._dropped[room:]
        if len(data) < room:
            data += self._source(room - len(data))
        self._waiting = len(data) == room
        s.rx.extend((byte, 0) for byte in data)
        self._update()

    def _is_wanted(self) -> bool:
        """Return whether the guest wants input, and does not only use the port for output."""
        s = self._s
        return bool(
            s.mcr & MCR_RTS
            or (s.mcr & MCR_OUT2 and s.ier & IER_RDA)
            or self._polls >= _POLLS_FOR_INPUT
        )

    def _drop(self) -> None:
        """Empty the receive FIFO."""
        s = self._s
        if self._handshake and not s.mcr & MCR_RTS and not self._looped and s.rx:
            self._dropped = bytes(byte for byte, _ in s.rx) + self._dropped
            self._waiting = True
        s.rx.clear()

    def _loop_back(self, byte: int, errors: int) -> None:
        s = self._s
        self._looped = True
        self._flawed = self._flawed or errors != 0
        if len(s.rx) < self._capacity():
            s.rx.append((byte, errors))
            return
        s.overrun = LSR_OE
        if not s.fcr & FCR_ENABLE:  # without FIFOs the new character overwrites the old one
            s.rx[0] = (byte, errors)

    def _change_modem(self, inputs: int) -> None:
        s = self._s
        changed = (s.msr ^ inputs) & 0xF0
        deltas = changed >> 4 & (MSR_DCTS | MSR_DDSR | MSR_DDCD)
        if changed & MSR_RI and not inputs & MSR_RI:
            deltas |= MSR_TERI
        s.msr = inputs & 0xF0 | s.msr & 0x0F | deltas
        self._update()

    def _interrupt(self) -> int:
        """Return the highest pending interrupt as IIR shows it (data sheet table IV)."""
        s = self._s
        ier = s.ier
        if ier & IER_RLS and (s.overrun or (s.rx and s.rx[0][1])):
            return IIR_RLS
        if ier & IER_RDA and s.rx:
            if not s.fcr & FCR_ENABLE:
                return IIR_RDA
            trigger = TRIGGER_LEVELS[s.fcr >> FCR_TRIGGER_SHIFT]
            return IIR_RDA if len(s.rx) >= trigger else IIR_TIMEOUT
        if ier & IER_THRE and s.thre_pending:
            return IIR_THRE
        if ier & IER_MS and s.msr & 0x0F:
            return IIR_MODEM
        return IIR_NONE

    def _update(self) -> None:
        s = self._s
        self._flawed = self._flawed and bool(s.rx)
        self._looped = self._looped and bool(s.rx)
        self._sends = not (s.lcr & LCR_DLAB or s.mcr & MCR_LOOP)
        self._quiet = self._sends and not (s.ier or s.rx or s.overrun or self._waiting)
        pending = self._interrupt() != IIR_NONE
        # In loop-back mode OUT2 is connected internally and its pin is inactive.
        connected = s.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        self._irq(pending and connected)
