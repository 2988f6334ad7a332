"""The PCI interrupt routing table, for guests that do not use ACPI.

See Microsoft's "PCI IRQ Routing Table Specification", version 1.0.  The guest searches F0000h to
FFFFFh for it, and routes a line by the register of the PIIX3 that the table calls its link.
"""

import struct
from typing import Final

from ringlet.devices import pci_host, piix3
from ringlet.machine import address_map as at

_HEADER: Final = struct.Struct("<4sHHBBHIIxxxxxxxxxxxB")
_SLOT: Final = struct.Struct("<BBBHBHBHBHBx")
_VERSION: Final = 0x0100
_CHECKSUM: Final = 31
_PINS: Final = 4


def routing_table() -> bytes:
    """Return the table, with all slots but the host bridge's."""
    possible = sum(1 << irq for irq in set(at.IRQS_PCI))
    slots = b"".join(_slot(slot, possible) for slot in range(1, pci_host.SLOTS))
    bridge = piix3.ISA_BRIDGE
    header = _HEADER.pack(
        b"$PIR", _VERSION, _HEADER.size + len(slots), 0, at.SLOT_PIIX3 << 3, possible,
        bridge.device << 16 | bridge.vendor, 0, 0,
    )  # fmt: skip
    table = bytearray(header + slots)
    table[_CHECKSUM] = -sum(table) & 0xFF
    return bytes(table)


def _slot(slot: int, possible: int) -> bytes:
    pins = [(piix3.PIRQRC + at.pirq(slot, pin), possible) for pin in range(1, _PINS + 1)]
    return _SLOT.pack(0, slot << 3, *(value for pin in pins for value in pin), 0)
