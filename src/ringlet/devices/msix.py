"""MSI-X: interrupts as messages, from a table in a function's memory (PCI 3.0, 6.8.2).

The table is at the beginning of a BAR of its own, and the pending bits behind it.  A thread of the
device may call `trigger`; the guest's thread does the rest.
"""

import threading
from dataclasses import dataclass
from typing import Final

from ringlet.devices import messages
from ringlet.devices.pci import PciFunction
from ringlet.devices.wiring import Message

CAPABILITY: Final = 0x11
BAR_SIZE: Final = 0x1000
PBA: Final = 0x800  # offset of the pending bits
VECTORS_MAX: Final = PBA // 16

# Message control
ENABLE: Final = 1 << 15
FUNCTION_MASK: Final = 1 << 14

# An entry: address, upper address, data and vector control, 32 bits each
_ENTRY: Final = 16
_MASK: Final = 1  # of vector control
_EMPTY: Final = bytes(12) + _MASK.to_bytes(4, "little")


@dataclass(slots=True)
class MsixState:
    """The table's bytes and the pending bits."""

    table: bytes = b""
    pending: int = 0


class Msix:
    """The capability of `function` with `vectors` entries in BAR `bar`, a memory BAR of BAR_SIZE.

    `send` is called with each message.
    """

    def __init__(self, function: PciFunction, vectors: int, bar: int, send: Message) -> None:
        self._function = function
        self._send = send
        self._vectors = vectors
        self._table = bytearray(_EMPTY) * vectors
        self._pending = 0
        self._lock = threading.Lock()
        body = bytearray(10)
        body[0:2] = (vectors - 1).to_bytes(2, "little")
        body[2:6] = bar.to_bytes(4, "little")
        body[6:10] = (PBA | bar).to_bytes(4, "little")
        writable = (ENABLE | FUNCTION_MASK).to_bytes(2, "little")
        self._offset = function.add_capability(
            CAPABILITY, bytes(body), writable, after_write=self._control_written,
            on_reset=self._reset,
        )  # fmt: skip

    @property
    def enabled(self) -> bool:
        """Return whether the function sends messages instead of using its pin."""
        return bool(self._control() & ENABLE)

    def trigger(self, vector: int) -> None:
        """Send the message of entry `vector`, or note it as pending while it is masked.

        A vector that the table lacks is none: the guest chose it.
        """
        if vector >= self._vectors or not self.enabled:
            return
        with self._lock:
            if self._masked(vector):
                self._pending |= 1 << vector
            else:
                self._deliver(vector)

    # --- the BAR

    def read(self, offset: int, size: int) -> int:
        """Return `size` bytes of the table or the pending bits; 0 elsewhere."""
        if offset >= PBA:
            value = self._pending >> 8 * (offset - PBA)
        else:
            value = int.from_bytes(self._table[offset : offset + size], "little")
        return value & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write aligned 4 or 8 bytes of the table; other sizes are not defined and are lost."""
        table = self._table
        if size not in {4, 8} or offset % size or offset + size > len(table):
            return
        with self._lock:
            table[offset : offset + size] = value.to_bytes(size, "little")
            vector = offset // _ENTRY
            table[vector * _ENTRY + 12 : (vector + 1) * _ENTRY] = bytes(
                [table[vector * _ENTRY + 12] & _MASK, 0, 0, 0]
            )
            self._send_pending()

    # --- state

    def save(self) -> MsixState:
        """Return a copy of the state."""
        with self._lock:
            return MsixState(bytes(self._table), self._pending)

    def restore(self, state: MsixState) -> None:
        """Restore `state`; what is pending and not masked is sent."""
        with self._lock:
            self._table[:] = state.table
            self._pending = state.pending
            self._send_pending()

    # --- inside

    def _control(self) -> int:
        return self._function.get_config(self._offset + 2, 2)

    def _control_written(self, offset: int, size: int) -> None:
        with self._lock:
            self._send_pending()

    def _reset(self) -> None:
        with self._lock:
            self._table[:] = _EMPTY * self._vectors
            self._pending = 0

    def _masked(self, vector: int) -> bool:
        return bool(self._control() & FUNCTION_MASK or self._table[vector * _ENTRY + 12] & _MASK)

    def _send_pending(self) -> None:
        if not self.enabled:
            return
        for vector in range(self._vectors):
            if self._pending >> vector & 1 and not self._masked(vector):
                self._pending &= ~(1 << vector)
                self._deliver(vector)

    def _deliver(self, vector: int) -> None:
        entry = self._table[vector * _ENTRY : (vector + 1) * _ENTRY]
        address = int.from_bytes(entry[:8], "little")
        if self._function.bus_master and address >> 20 == messages.PAGE:
            self._send(address, int.from_bytes(entry[8:12], "little"))
