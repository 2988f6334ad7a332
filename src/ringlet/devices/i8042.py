"""The keyboard controller of a PC (IBM PS/2 Hardware Interface Technical Reference; Intel 8042).

The controller has two ports, data (60h) and status or command (64h).  It processes input at once,
so its input buffer is always empty.  For an absent device, the controller returns FEh with the
timeout bit at once.  Bit 1 of its output port is a line to the A20 gate.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from ringlet.devices.wiring import Line, unconnected

# Status
STR_OBF: Final = 1 << 0
STR_SYS: Final = 1 << 2
STR_COMMAND: Final = 1 << 3
STR_UNLOCKED: Final = 1 << 4
STR_AUX: Final = 1 << 5
STR_TIMEOUT: Final = 1 << 6

# Command byte
CTR_KBD_INT: Final = 1 << 0
CTR_AUX_INT: Final = 1 << 1
CTR_SYS: Final = 1 << 2
CTR_KBD_DISABLE: Final = 1 << 4
CTR_AUX_DISABLE: Final = 1 << 5
CTR_TRANSLATE: Final = 1 << 6
_CTR_WRITABLE: Final = 0x7F

# Commands
READ_RAM: Final = 0x20  # to 3Fh; 20h is the command byte
WRITE_RAM: Final = 0x60  # to 7Fh
AUX_DISABLE: Final = 0xA7
AUX_ENABLE: Final = 0xA8
AUX_TEST: Final = 0xA9
SELF_TEST: Final = 0xAA
KBD_TEST: Final = 0xAB
KBD_DISABLE: Final = 0xAD
KBD_ENABLE: Final = 0xAE
READ_INPUT: Final = 0xC0
READ_OUTPUT: Final = 0xD0
WRITE_OUTPUT: Final = 0xD1
KBD_LOOP: Final = 0xD2
AUX_LOOP: Final = 0xD3
AUX_SEND: Final = 0xD4
A20_DISABLE: Final = 0xDD  # what the chips of AT clones have
A20_ENABLE: Final = 0xDF
READ_TEST_INPUTS: Final = 0xE0
PULSE: Final = 0xF0  # to FFh: pulses low the bits of the output port that are 0 in the command

_WITH_PARAMETER: Final = frozenset(
    {*range(WRITE_RAM, WRITE_RAM + 32), WRITE_OUTPUT, KBD_LOOP, AUX_LOOP, AUX_SEND}
)

SELF_TEST_PASSED: Final = 0x55
INTERFACE_GOOD: Final = 0x00
NO_ANSWER: Final = 0xFE

# Output port
OUT_NOT_RESET: Final = 1 << 0
OUT_A20: Final = 1 << 1
OUT_KBD_FULL: Final = 1 << 4
OUT_AUX_FULL: Final = 1 << 5
_OUT_IDLE: Final = 0xC0  # clock and data of the keyboard are high

INPUT_UNLOCKED: Final = 1 << 7
RAM_SIZE: Final = 32

# Translation to scan code set 1 of the bytes that Ringlet's keyboard sends; its other bytes are
# above 80h and are not translated.
_TRANSLATED: Final = {0x83: 0x41}


class Ps2Device(Protocol):
    """A device at a cable, which receives bytes and has bytes to send."""

    def send(self, byte: int) -> None: ...

    def take(self) -> int | None: ...


@dataclass(slots=True)
class I8042State:
    """The state: byte 0 of `ram` is the command byte, `output` is port 60h's with status bits."""

    ram: list[int] = field(
        default_factory=lambda: [CTR_TRANSLATE | CTR_AUX_DISABLE | CTR_SYS, *[0] * (RAM_SIZE - 1)]
    )
    output: tuple[int, int] | None = None
    last: int = 0  # the value of port 60h when the buffer is empty
    command: int | None = None  # waits for its parameter
    was_command: bool = False
    out_port: int = OUT_NOT_RESET | OUT_A20


class DataPort:
    """Port 60h."""

    def __init__(self, chip: "I8042") -> None:
        self._chip = chip

    def read(self, offset: int, size: int) -> int:
        """Remove the byte in the output buffer and return it."""
        return self._chip.read_data()

    def write(self, offset: int, size: int, value: int) -> None:
        """Give the last command its parameter, or the keyboard a byte."""
        self._chip.write_data(value & 0xFF)


class CommandPort:
    """Port 64h."""

    def __init__(self, chip: "I8042") -> None:
        self._chip = chip

    def read(self, offset: int, size: int) -> int:
        """Return the status."""
        return self._chip.read_status()

    def write(self, offset: int, size: int, value: int) -> None:
        """Send the controller a command."""
        self._chip.write_command(value & 0xFF)


class I8042:
    """The controller; `reset` is called when the guest pulses the processor's reset pin."""

    def __init__(
        self,
        reset: Callable[[], None],
        kbd_irq: Line = unconnected,
        aux_irq: Line = unconnected,
        keyboard: Ps2Device | None = None,
        aux: Ps2Device | None = None,
        a20: Line = unconnected,
    ) -> None:
        self._reset = reset
        self._kbd_irq = kbd_irq
        self._aux_irq = aux_irq
        self._keyboard = keyboard
        self._aux = aux
        self._a20 = a20
        self._s = I8042State()
        self.data = DataPort(self)
        self.command = CommandPort(self)
        self._drive_a20()

    # --- the ports

    def read_data(self) -> int:
        """Remove the byte in the output buffer and return it; if it is empty, return the last."""
        s = self._s
        if s.output is not None:
            s.last = s.output[0]
            s.output = None
            self._drive()
            self.service()
        return s.last

    def read_status(self) -> int:
        """Return the status."""
        s = self._s
        status = STR_UNLOCKED | s.ram[0] & CTR_SYS
        if s.was_command:
            status |= STR_COMMAND
        if s.output is not None:
            status |= STR_OBF | s.output[1]
        return status

    def write_command(self, value: int) -> None:
        """Carry out a command, or wait for its parameter."""
        s = self._s
        s.was_command = True
        s.command = None
        if value >= PULSE:
            if not value & OUT_NOT_RESET:
                self._reset()
        elif READ_RAM <= value < READ_RAM + RAM_SIZE:
            self._answer(s.ram[value - READ_RAM])
        elif value in _WITH_PARAMETER:
            s.command = value
        else:
            self._simple_command(value)

    def write_data(self, value: int) -> None:
        """Give the last command its parameter, or the keyboard a byte."""
        s = self._s
        s.was_command = False
        command, s.command = s.command, None
        if command is None:
            s.ram[0] &= ~CTR_KBD_DISABLE  # talking to the keyboard lets it answer
            self._send(self._keyboard, value, 0)
        elif command == WRITE_OUTPUT:
            self._set_a20(bool(value & OUT_A20))
            if not value & OUT_NOT_RESET:
                self._reset()
        elif command == KBD_LOOP:
            self._put(value, 0)
        elif command == AUX_LOOP:
            self._put(value, STR_AUX)
        elif command == AUX_SEND:
            self._send(self._aux, value, STR_AUX)
        else:
            s.ram[command - WRITE_RAM] = value & _CTR_WRITABLE if command == WRITE_RAM else value
            self._drive()
            self.service()

    # --- the cables

    def service(self) -> None:
        """Read the devices' bytes.  A device that has new bytes calls this."""
        s = self._s
        if s.output is not None:
            return
        for device, disabled, flags in (
            (self._keyboard, CTR_KBD_DISABLE, 0),
            (self._aux, CTR_AUX_DISABLE, STR_AUX),
        ):
            if device is None or s.ram[0] & disabled:
                continue
            byte = device.take()
            if byte is not None:
                if not flags and s.ram[0] & CTR_TRANSLATE:
                    byte = _TRANSLATED.get(byte, byte)
                self._put(byte, flags)
                return

    # --- state

    def save(self) -> I8042State:
        """Return a copy of the state, without the devices' states."""
        return replace(self._s, ram=list(self._s.ram))

    def restore(self, state: I8042State) -> None:
        """Restore `state` and drive the lines accordingly."""
        self._s = replace(state, ram=list(state.ram))
        self._drive()
        self._drive_a20()

    # --- inside

    def _simple_command(self, value: int) -> None:
        s = self._s
        match value:
            case 0xA7:  # AUX_DISABLE
                s.ram[0] |= CTR_AUX_DISABLE
            case 0xA8:  # AUX_ENABLE
                s.ram[0] &= ~CTR_AUX_DISABLE
                self.service()
            case 0xAD:  # KBD_DISABLE
                s.ram[0] |= CTR_KBD_DISABLE
            case 0xAE:  # KBD_ENABLE
                s.ram[0] &= ~CTR_KBD_DISABLE
                self.service()
            case 0xA9 | 0xAB:  # AUX_TEST, KBD_TEST
                self._answer(INTERFACE_GOOD)
            case 0xAA:  # SELF_TEST, which also sets the command byte to its default
                s.ram[0] = CTR_SYS | CTR_TRANSLATE | CTR_KBD_DISABLE | CTR_AUX_DISABLE
                self._answer(SELF_TEST_PASSED)
            case 0xC0:  # READ_INPUT
                self._answer(INPUT_UNLOCKED)
            case 0xD0:  # READ_OUTPUT
                self._answer(self._output_port())
            case 0xDD | 0xDF:  # A20_DISABLE, A20_ENABLE
                self._set_a20(value == A20_ENABLE)
            case 0xE0:  # READ_TEST_INPUTS: both clocks are low while an interface is disabled
                ctr = s.ram[0]
                self._answer((not ctr & CTR_KBD_DISABLE) | (not ctr & CTR_AUX_DISABLE) << 1)

    def _set_a20(self, enabled: bool) -> None:
        self._s.out_port = OUT_NOT_RESET | (OUT_A20 if enabled else 0)
        self._drive_a20()

    def _drive_a20(self) -> None:
        self._a20(bool(self._s.out_port & OUT_A20))

    def _output_port(self) -> int:
        s = self._s
        full = 0
        if s.output is not None:
            full = OUT_AUX_FULL if s.output[1] & STR_AUX else OUT_KBD_FULL
        return s.out_port | full | _OUT_IDLE

    def _send(self, device: Ps2Device | None, value: int, flags: int) -> None:
        if device is None:
            self._put(NO_ANSWER, flags | STR_TIMEOUT)
            return
        device.send(value)
        self.service()

    def _answer(self, value: int) -> None:
        self._put(value, 0)

    def _put(self, value: int, flags: int) -> None:
        """Fill the output buffer; a byte that was in it is lost, as on the chip."""
        self._s.output = None
        self._drive()
        self._s.output = (value, flags)
        self._drive()

    def _drive(self) -> None:
        s = self._s
        aux = bool(s.output is not None and s.output[1] & STR_AUX)
        self._kbd_irq(s.output is not None and not aux and bool(s.ram[0] & CTR_KBD_INT))
        self._aux_irq(aux and bool(s.ram[0] & CTR_AUX_INT))
