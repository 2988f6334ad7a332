"""The 82093AA I/O APIC (Intel 82093AA data sheet), as version 20h: with an EOI register.

It sends each interrupt as a message, the memory write of an MSI (SDM 3A 11.11).  The end of a
level-triggered interrupt reaches it through `end_of_interrupt`, the local APIC's broadcast, or
through its EOI register.  A line's level says whether the input is asserted, whatever the voltage,
so the polarity bit is stored and has no effect.

Bits 55:49 of an entry, reserved in the data sheet, extend the destination to 15 bits by the
convention of `ringlet.devices.messages`.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from ringlet.devices import messages
from ringlet.devices.wiring import Line, Message

INPUTS: Final = 24
VERSION: Final = 0x20
SIZE: Final = 0x1000  # bytes of its memory range

# Memory-mapped registers
IOREGSEL: Final = 0x00
IOWIN: Final = 0x10
EOIR: Final = 0x40

# Registers behind IOWIN
IOAPICID: Final = 0x00
IOAPICVER: Final = 0x01
IOAPICARB: Final = 0x02
IOREDTBL: Final = 0x10  # two for each input, low half first

# Redirection table entry, low half
VECTOR: Final = 0xFF
DELIVERY_MODE_SHIFT: Final = 8
LOGICAL: Final = 1 << 11
REMOTE_IRR: Final = 1 << 14
LEVEL: Final = 1 << 15
MASKED: Final = 1 << 16
_WRITABLE_LOW: Final = 0x1AFFF  # all but delivery status and remote IRR
_WRITABLE_HIGH: Final = 0xFFFE_0000
_DESTINATION_SHIFT: Final = 56
_EXTENSION_SHIFT: Final = 49

# Delivery modes that can be level-triggered: fixed and lowest priority
_FIXED: Final = 0
_LOWEST_PRIORITY: Final = 1


@dataclass(slots=True)
class IoApicState:
    """The registers, and the inputs that are asserted."""

    ident: int = 0
    select: int = 0
    entries: list[int] = field(default_factory=lambda: [MASKED] * INPUTS)
    lines: int = 0


class IoApic:
    """One I/O APIC with 24 inputs at a page of memory; `send` is called with its messages."""

    def __init__(self, send: Message, ident: int = 0) -> None:
        self._send = send
        self._s = IoApicState(ident=ident & 0xF)

    # --- the bus

    def read(self, offset: int, size: int) -> int:
        """Return `size` bytes at `offset`, which are 0 between the registers."""
        value = self._register(offset & ~3) >> 8 * (offset & 3)
        return value & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; IOWIN takes 32 bits at once, as the data sheet requires."""
        if offset == IOREGSEL:
            self._s.select = value & 0xFF
        elif offset == IOWIN and size == 4:
            self._write_window(value)
        elif offset == EOIR:
            self.end_of_interrupt(value & VECTOR)

    # --- pins

    def line(self, number: int) -> Line:
        """Return the line that drives input `number`, 0 to 23."""

        def drive(level: bool) -> None:
            self.set_line(number, level)

        return drive

    def set_line(self, number: int, level: bool) -> None:
        """Assert or release input `number`."""
        s = self._s
        bit = 1 << number
        if not level:
            s.lines &= ~bit
            return
        if s.lines & bit:
            return
        s.lines |= bit
        # An edge on a masked input is lost.
        if not s.entries[number] & (MASKED | REMOTE_IRR):
            self._deliver(number)

    def end_of_interrupt(self, vector: int) -> None:
        """Handle the processor's EOI: level-triggered inputs with `vector` may interrupt again."""
        s = self._s
        for number, entry in enumerate(s.entries):
            if entry & REMOTE_IRR and entry & VECTOR == vector:
                s.entries[number] = entry & ~REMOTE_IRR
                self._deliver_level(number)

    def accepts(self, number: int) -> bool:
        """Return whether an interrupt of input `number` would be sent now."""
        return not self._s.entries[number] & (MASKED | REMOTE_IRR)

    # --- state

    def save(self) -> IoApicState:
        """Return a copy of the state."""
        return replace(self._s, entries=list(self._s.entries))

    def restore(self, state: IoApicState) -> None:
        """Restore `state` without sending messages again."""
        self._s = replace(state, entries=list(state.entries))

    # --- inside

    def _register(self, offset: int) -> int:
        if offset == IOREGSEL:
            return self._s.select
        return self._read_window() if offset == IOWIN else 0

    def _read_window(self) -> int:
        s = self._s
        match s.select:
            case 0x00 | 0x02:  # IOAPICID, IOAPICARB: arbitration starts from the ID
                return s.ident << 24
            case 0x01:
                return (INPUTS - 1) << 16 | VERSION
            case _:
                number, high = divmod(s.select - IOREDTBL, 2)
                if not 0 <= number < INPUTS:
                    return 0
                return s.entries[number] >> (32 if high else 0) & 0xFFFF_FFFF

    def _write_window(self, value: int) -> None:
        s = self._s
        if s.select == IOAPICID:
            s.ident = value >> 24 & 0xF
            return
        number, high = divmod(s.select - IOREDTBL, 2)
        if not 0 <= number < INPUTS:
            return
        entry = s.entries[number]
        if high:
            s.entries[number] = entry & 0xFFFF_FFFF | (value & _WRITABLE_HIGH) << 32
            return
        entry = entry & ~_WRITABLE_LOW | value & _WRITABLE_LOW
        if not _is_level(entry):
            entry &= ~REMOTE_IRR
        s.entries[number] = entry
        self._deliver_level(number)

    def _deliver_level(self, number: int) -> None:
        s = self._s
        entry = s.entries[number]
        if s.lines >> number & 1 and _is_level(entry) and not entry & (MASKED | REMOTE_IRR):
            self._deliver(number)

    def _deliver(self, number: int) -> None:
        entry = self._s.entries[number]
        extension = entry >> _EXTENSION_SHIFT & 0x7F
        address = messages.address_of(
            extension << 8 | entry >> _DESTINATION_SHIFT, logical=bool(entry & LOGICAL)
        )
        data = entry & 0x7FF  # vector and delivery mode
        if _is_level(entry):
            data |= messages.LEVEL | messages.ASSERT
            self._s.entries[number] = entry | REMOTE_IRR
        self._send(address, data)


def _is_level(entry: int) -> bool:
    """Return whether an entry is level-triggered; NMI, INIT, SMI and ExtINT never are."""
    mode = entry >> DELIVERY_MODE_SHIFT & 7
    return bool(entry & LEVEL) and mode in (_FIXED, _LOWEST_PRIORITY)
