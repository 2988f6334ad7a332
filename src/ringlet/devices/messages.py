"""Interrupts as memory writes: how their addresses name processors (SDM 3A 11.11).

    31:20  FEEh
    19:12  destination ID, bits 7:0
    11:5   destination ID, bits 14:8, unless bit 4 is set
    4      1: for a unit that remaps interrupts
    2      1: the destination is logical

Bits 11:5 are the convention of KVM, Hyper-V and Xen, which extends the destination to 15 bits
(Linux, arch/x86/include/asm/msi.h: `virt_destid_8_14`).  A guest uses it if CPUID offers it
(`ringlet.arch.cpuid`).  Without remapping, no message can carry all the 32 bits of an x2APIC ID.
The I/O APIC has these 16 bits at the top of an entry in the same order.
"""

from typing import Final

BASE: Final = 0xFEE0_0000
PAGE: Final = 0xFEE
"""Bits 20 and up of the address of a message; a write to another address is none."""

DESTINATION_SHIFT: Final = 12
EXTENSION_SHIFT: Final = 5
REMAPPABLE: Final = 1 << 4
LOGICAL: Final = 1 << 2
BROADCAST: Final = 0xFF

# Data
VECTOR: Final = 0xFF
DELIVERY_MODE_SHIFT: Final = 8
ASSERT: Final = 1 << 14
LEVEL: Final = 1 << 15

_EXTENSION: Final = 0x7F << EXTENSION_SHIFT


def address_of(destination: int, *, logical: bool = False) -> int:
    """Return the address of a message to a destination of 15 bits."""
    return (
        BASE
        | (destination & 0xFF) << DESTINATION_SHIFT
        | (destination >> 8 & 0x7F) << EXTENSION_SHIFT
        | (LOGICAL if logical else 0)
    )


def destination_of(address: int) -> int:
    """Return the 15 bits of the destination in the address of a message."""
    low = address >> DESTINATION_SHIFT & 0xFF
    if address & REMAPPABLE:
        return low
    return (address & _EXTENSION) >> EXTENSION_SHIFT << 8 | low
