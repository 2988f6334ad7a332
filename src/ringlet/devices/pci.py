"""A PCI function: its configuration space, base address registers and interrupt pin.

See PCI Local Bus Specification 3.0, chapter 6.  A mask beside the 256 bytes holds the bits that the
guest may write, so writes need no special cases; the consequences of a write are computed after it.
The function maps nothing itself: it reports the address of a BAR to `bar_changed`.

A device fills in a PciFunction: identity, BARs and pin when it makes one, then capabilities
(`add_capability`, or a class of `msi`, `msix` and `function_reset`) and registers of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ringlet.devices.wiring import Line, unconnected
from ringlet.errors import InternalError

CONFIG_SIZE: Final = 256

# Header, type 0
VENDOR_ID: Final = 0x00
DEVICE_ID: Final = 0x02
COMMAND: Final = 0x04
STATUS: Final = 0x06
REVISION_ID: Final = 0x08
CLASS_CODE: Final = 0x09
CACHE_LINE_SIZE: Final = 0x0C
LATENCY_TIMER: Final = 0x0D
HEADER_TYPE: Final = 0x0E
BAR0: Final = 0x10
BARS_END: Final = 0x28
SUBSYSTEM_VENDOR_ID: Final = 0x2C
SUBSYSTEM_ID: Final = 0x2E
CAPABILITIES: Final = 0x34
INTERRUPT_LINE: Final = 0x3C
INTERRUPT_PIN: Final = 0x3D
HEADER_END: Final = 0x40

# Command register
COMMAND_IO: Final = 1 << 0
COMMAND_MEMORY: Final = 1 << 1
COMMAND_MASTER: Final = 1 << 2
COMMAND_PARITY: Final = 1 << 6
COMMAND_SERR: Final = 1 << 8
COMMAND_NO_INTX: Final = 1 << 10

# Status register
STATUS_INTERRUPT: Final = 1 << 3
STATUS_CAPABILITIES: Final = 1 << 4

MULTIFUNCTION: Final = 1 << 7  # of the header type


class BarKind(Enum):
    """The kinds of BARs, with the low bits of their value and the end of their address space."""

    IO = (0x1, 1 << 16)
    MEMORY_32 = (0x0, 1 << 32)
    MEMORY_64 = (0x4, 1 << 64)

    def __init__(self, flags: int, limit: int) -> None:
        self.flags = flags
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Bar:
    """A base address register: `index` 0 to 5, `size` a power of two; a 64-bit one takes two."""

    index: int
    kind: BarKind
    size: int
    prefetchable: bool = False


@dataclass(frozen=True, slots=True)
class PciIdentity:
    """The identity of a function; `class_code` is class, subclass and interface, 24 bits."""

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem: int = 0


@dataclass(slots=True)
class PciFunctionState:
    """The configuration space, and the level that the function requests on its pin."""

    config: bytes
    interrupt: bool


BarChanged = Callable[["PciFunction", Bar, int | None], None]
"""Called with the address that a BAR decodes now, or None.

The guest chooses the address: it may be in RAM, in another device or outside the bus.
"""

Access = Callable[[int, int], None]
"""Called on an access in a capability: offset from the capability's beginning, and size."""


def _nowhere(function: "PciFunction", bar: Bar, address: int | None) -> None:
    """Do nothing: the default for a function without BARs."""


def _nothing() -> None:
    """Do nothing: the default for what has no state to reset."""


@dataclass(frozen=True, slots=True)
class _Capability:
    offset: int
    size: int
    before_read: Access | None
    after_write: Access | None
    on_reset: Callable[[], None] = _nothing


class PciFunction:
    """One function.  `irq` is its INTA# line if `interrupt_pin` is 1 (0: it has none).

    `on_reset` is called when the function is reset: the device has to return to its state after
    power-on, and to be at rest, before it returns.
    """

    def __init__(
        self,
        identity: PciIdentity,
        bars: Sequence[Bar] = (),
        *,
        interrupt_pin: int = 0,
        irq: Line = unconnected,
        bar_changed: BarChanged = _nowhere,
        multifunction: bool = False,
        on_reset: Callable[[], None] = _nothing,
    ) -> None:
        self._irq = irq
        self._bar_changed = bar_changed
        self._on_reset = on_reset
        self._config = bytearray(CONFIG_SIZE)
        self._initial = bytearray(CONFIG_SIZE)  # what the configuration space is after a reset
        self._writable = bytearray(CONFIG_SIZE)
        self._bars = tuple(bars)
        self._reported: dict[int, int | None] = {bar.index: None for bar in bars}
        self._capabilities: list[_Capability] = []
        self._watched: list[_Capability] = []  # capabilities, and registers of the device's own
        self._next_capability = HEADER_END
        self._interrupt = False

        self._define(VENDOR_ID, 2, identity.vendor)
        self._define(DEVICE_ID, 2, identity.device)
        self._define(REVISION_ID, 1, identity.revision)
        self._define(CLASS_CODE, 3, identity.class_code)
        self._define(HEADER_TYPE, 1, MULTIFUNCTION if multifunction else 0)
        self._define(SUBSYSTEM_VENDOR_ID, 2, identity.subsystem_vendor)
        self._define(SUBSYSTEM_ID, 2, identity.subsystem)
        self._define(INTERRUPT_PIN, 1, interrupt_pin)
        self._allow(INTERRUPT_LINE, 1, 0xFF)
        self._allow(CACHE_LINE_SIZE, 1, 0xFF)
        self._allow(LATENCY_TIMER, 1, 0xFF)
        command = COMMAND_MASTER | COMMAND_PARITY | COMMAND_SERR
        for bar in bars:
            self._add_bar(bar)
            command |= COMMAND_IO if bar.kind is BarKind.IO else COMMAND_MEMORY
        if interrupt_pin:
            command |= COMMAND_NO_INTX
        self._allow(COMMAND, 2, command)

    # --- construction

    def add_capability(
        self,
        kind: int,
        body: bytes,
        writable: bytes = b"",
        *,
        before_read: Access | None = None,
        after_write: Access | None = None,
        on_reset: Callable[[], None] = _nothing,
    ) -> int:
        """Add a capability to the end of the list and return its offset.

        `body` follows the two bytes of ID and link; `writable` masks the bits of `body` that the
        guest may write.  `on_reset` resets what is not in the configuration space.  Raises
        InternalError if that is full.
        """
        offset = self._next_capability
        size = 2 + len(body)
        if offset + size > CONFIG_SIZE:
            raise InternalError("no room for a PCI capability", {"kind": kind, "size": size})
        link = self._capabilities[-1].offset + 1 if self._capabilities else CAPABILITIES
        self._define(link, 1, offset)
        self._define(offset, 1, kind)
        self._define(offset + 2, len(body), int.from_bytes(body, "little"))
        self._writable[offset + 2 : offset + 2 + len(writable)] = writable
        self._define(STATUS, 2, self._get(STATUS, 2) | STATUS_CAPABILITIES)
        capability = _Capability(offset, size, before_read, after_write, on_reset)
        self._capabilities.append(capability)
        self._watched.append(capability)
        self._next_capability = offset + size + 3 & ~3
        return offset

    def add_registers(
        self, offset: int, reset: bytes, writable: bytes, after_write: Access | None = None
    ) -> None:
        """Add registers of the device's own from `offset` on, which is above the header.

        `reset` is their value now and `writable` masks the bits that the guest may write.
        """
        self._define(offset, len(reset), int.from_bytes(reset, "little"))
        self._writable[offset : offset + len(writable)] = writable
        self._watched.append(_Capability(offset, len(reset), None, after_write))

    # --- configuration accesses

    def read_config(self, offset: int, size: int) -> int:
        """Return `size` bytes at `offset`, 0 to 255."""
        for capability in self._watched:
            if capability.before_read is not None and _overlap(capability, offset, size):
                capability.before_read(offset - capability.offset, size)
        return self._get(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write the writable bits of `size` bytes at `offset`, and carry out the consequences."""
        for place in range(offset, min(offset + size, CONFIG_SIZE)):
            mask = self._writable[place]
            byte = value >> 8 * (place - offset) & 0xFF
            self._config[place] = self._config[place] & ~mask | byte & mask
        if offset < HEADER_END:
            self._decode()
            self._drive()
        for capability in self._watched:
            if capability.after_write is not None and _overlap(capability, offset, size):
                capability.after_write(offset - capability.offset, size)

    # --- for the device

    @property
    def command(self) -> int:
        """The command register."""
        return self._get(COMMAND, 2)

    @property
    def bars(self) -> Sequence[Bar]:
        """The BARs that the function was made with."""
        return self._bars

    @property
    def bus_master(self) -> bool:
        """Return whether the function may access memory, and so send messages."""
        return bool(self.command & COMMAND_MASTER)

    def bar_address(self, index: int) -> int | None:
        """Return the address that BAR `index` decodes now, or None."""
        return self._reported[index]

    def set_interrupt(self, level: bool) -> None:
        """Assert or release INTx, which the guest may have disabled."""
        self._interrupt = level
        self._drive()

    def get_config(self, offset: int, size: int) -> int:
        """Return configuration bytes to the device itself, without calling `before_read`."""
        return self._get(offset, size)

    def set_config(self, offset: int, size: int, value: int) -> None:
        """Let the device itself change configuration bytes, read-only ones too."""
        self._put(offset, size, value)

    def reset(self) -> None:
        """Return to the state after power-on: nothing answers, sends messages or interrupts."""
        self._on_reset()
        self._config[:] = self._initial
        self._interrupt = False
        self._decode()
        self._drive()
        for capability in self._watched:
            capability.on_reset()

    # --- state

    def save(self) -> PciFunctionState:
        """Return a copy of the state."""
        return PciFunctionState(bytes(self._config), self._interrupt)

    def restore(self, state: PciFunctionState) -> None:
        """Restore `state` and report the addresses of the BARs."""
        self._config = bytearray(state.config)
        self._interrupt = state.interrupt
        self._decode()
        self._drive()

    # --- inside

    def _get(self, offset: int, size: int) -> int:
        return int.from_bytes(self._config[offset : offset + size], "little")

    def _put(self, offset: int, size: int, value: int) -> None:
        self._config[offset : offset + size] = value.to_bytes(size, "little")

    def _define(self, offset: int, size: int, value: int) -> None:
        """Set configuration bytes to a value to which a reset returns."""
        self._put(offset, size, value)
        self._initial[offset : offset + size] = self._config[offset : offset + size]

    def _allow(self, offset: int, size: int, mask: int) -> None:
        self._writable[offset : offset + size] = mask.to_bytes(size, "little")

    def _add_bar(self, bar: Bar) -> None:
        offset = BAR0 + 4 * bar.index
        size = 8 if bar.kind is BarKind.MEMORY_64 else 4
        smallest = 4 if bar.kind is BarKind.IO else 16
        taken = any(self._writable[offset : offset + size])
        if taken or bar.size < smallest or bar.size & bar.size - 1 or offset + size > BARS_END:
            raise InternalError("no such BAR", {"index": bar.index, "size": bar.size})
        self._define(offset, size, bar.kind.flags | (8 if bar.prefetchable else 0))
        self._allow(offset, size, bar.kind.limit - bar.size)

    def _decode(self) -> None:
        """Compute the addresses of the BARs and report those that have changed."""
        command = self.command
        for bar in self._bars:
            enable = COMMAND_IO if bar.kind is BarKind.IO else COMMAND_MEMORY
            address = self._address(bar) if command & enable else None
            if address != self._reported[bar.index]:
                self._reported[bar.index] = address
                self._bar_changed(self, bar, address)

    def _address(self, bar: Bar) -> int | None:
        size = 8 if bar.kind is BarKind.MEMORY_64 else 4
        address = self._get(BAR0 + 4 * bar.index, size) & bar.kind.limit - bar.size
        # 0 means not assigned yet; all ones means that the guest reads the size.
        if address == 0 or address + bar.size == bar.kind.limit:
            return None
        return address

    def _drive(self) -> None:
        status = self._get(STATUS, 2) & ~STATUS_INTERRUPT
        self._put(STATUS, 2, status | (STATUS_INTERRUPT if self._interrupt else 0))
        self._irq(self._interrupt and not self.command & COMMAND_NO_INTX)


def _overlap(capability: _Capability, offset: int, size: int) -> bool:
    return offset < capability.offset + capability.size and capability.offset < offset + size
