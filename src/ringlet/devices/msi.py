"""MSI: interrupts as messages, from registers in configuration space (PCI 3.0, 6.8.1).

The capability has a 64-bit address, and a mask bit and a pending bit for each vector:

    02h  message control
    04h  message address, 64 bits
    0Ch  message data, 16 bits
    10h  mask bits
    14h  pending bits, read-only

A thread of the device may call `trigger`; the guest's thread does the rest.
"""

import threading
from dataclasses import dataclass
from typing import Final

from ringlet.devices import messages
from ringlet.devices.pci import PciFunction
from ringlet.devices.wiring import Message
from ringlet.errors import InternalError

CAPABILITY: Final = 0x05
VECTORS_MAX: Final = 32

# Offsets in the capability
CONTROL: Final = 0x02
ADDRESS: Final = 0x04
DATA: Final = 0x0C
MASK: Final = 0x10
PENDING: Final = 0x14
_SIZE: Final = 0x18

# Message control
ENABLE: Final = 1 << 0
WANTED_SHIFT: Final = 1  # logarithm of the vectors that the function wants
GRANTED_SHIFT: Final = 4  # and of those that the guest has given it
ADDRESS_64: Final = 1 << 7
MASKING: Final = 1 << 8


@dataclass(slots=True)
class MsiState:
    """The pending bits; the registers are in the function's configuration space."""

    pending: int = 0


class Msi:
    """The capability of `function` with `vectors`, a power of two up to 32.

    `send` is called with each message.
    """

    def __init__(self, function: PciFunction, vectors: int, send: Message) -> None:
        if not 1 <= vectors <= VECTORS_MAX or vectors & vectors - 1:
            raise InternalError("no such number of MSI vectors", {"vectors": vectors})
        self._function = function
        self._send = send
        self._wanted = vectors.bit_length() - 1
        self._pending = 0
        self._lock = threading.Lock()
        body, writable = bytearray(_SIZE - 2), bytearray(_SIZE - 2)
        control = ADDRESS_64 | MASKING | self._wanted << WANTED_SHIFT
        body[0:2] = control.to_bytes(2, "little")
        writable[0:2] = (ENABLE | 7 << GRANTED_SHIFT).to_bytes(2, "little")
        writable[ADDRESS - 2 : ADDRESS + 6] = b"\xfc" + b"\xff" * 7
        writable[DATA - 2 : DATA] = b"\xff" * 2
        writable[MASK - 2 : MASK + 2] = ((1 << vectors) - 1).to_bytes(4, "little")
        self._offset = function.add_capability(
            CAPABILITY, bytes(body), bytes(writable), before_read=self._show_pending,
            after_write=self._written, on_reset=self._reset,
        )  # fmt: skip

    @property
    def enabled(self) -> bool:
        """Return whether the function sends messages instead of using its pin."""
        return bool(self._register(CONTROL, 2) & ENABLE)

    def trigger(self, vector: int) -> None:
        """Send the message of `vector`, or note it as pending while it is masked.

        If the guest has given the function fewer vectors than it wants, several share one.
        """
        if not self.enabled:
            return
        vector &= (1 << self._granted()) - 1
        with self._lock:
            if self._register(MASK, 4) >> vector & 1:
                self._pending |= 1 << vector
            else:
                self._deliver(vector)

    # --- state

    def save(self) -> MsiState:
        """Return a copy of the state."""
        with self._lock:
            return MsiState(self._pending)

    def restore(self, state: MsiState) -> None:
        """Restore `state` after the function's; what is pending and not masked is sent."""
        with self._lock:
            self._pending = state.pending & (1 << (1 << self._wanted)) - 1
            self._send_pending()

    # --- inside

    def _register(self, offset: int, size: int) -> int:
        return self._function.get_config(self._offset + offset, size)

    def _granted(self) -> int:
        """Return the logarithm of the vectors in use; the guest may have written too many."""
        return min(self._register(CONTROL, 2) >> GRANTED_SHIFT & 7, self._wanted)

    def _show_pending(self, offset: int, size: int) -> None:
        self._function.set_config(self._offset + PENDING, 4, self._pending)

    def _written(self, offset: int, size: int) -> None:
        with self._lock:
            self._send_pending()

    def _reset(self) -> None:
        with self._lock:
            self._pending = 0

    def _send_pending(self) -> None:
        if not self.enabled:
            return
        ready = self._pending & ~self._register(MASK, 4)
        self._pending &= ~ready
        for vector in range(1 << self._granted()):
            if ready >> vector & 1:
                self._deliver(vector)

    def _deliver(self, vector: int) -> None:
        address = self._register(ADDRESS, 8)
        if self._function.bus_master and address >> 20 == messages.PAGE:
            # The function replaces the low bits of the data by the vector (6.8.1.4).
            data = self._register(DATA, 2) & -1 << self._granted()
            self._send(address, data | vector)
