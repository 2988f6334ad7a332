"""Builds the ACPI tables of the PC (ACPI 6.4, chapter 5) for one place in guest memory.

    RSDP -> XSDT, RSDT -> FADT -> FACS, DSDT
                       -> MADT

The guest finds the RSDP in its boot parameters, or by searching E0000h to FFFFFh.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ringlet.devices import acpi_pm, reset, rtc
from ringlet.machine import address_map as at
from ringlet.machine.dsdt import Platform, definition_block

_OEM_ID: Final = b"RINGLT"
_OEM_TABLE_ID: Final = b"RINGLET "
_CREATOR_ID: Final = b"RNGL"
_HEADER: Final = struct.Struct("<4sIBB6s8sI4sI")
HEADER_SIZE: Final = _HEADER.size
RSDP_SIZE: Final = 36
FACS_SIZE: Final = 64
FADT_SIZE: Final = 276  # of revision 6

# FADT: IA-PC boot architecture flags
_LEGACY_DEVICES: Final = 1 << 0
_HAS_8042: Final = 1 << 1
_NO_VGA: Final = 1 << 2

# FADT: fixed feature flags
_WBINVD: Final = 1 << 0
_PROC_C1: Final = 1 << 2
_NO_SLEEP_BUTTON: Final = 1 << 5  # bit 4 is clear because the power button is fixed hardware
_TIMER_32_BITS: Final = 1 << 8
_RESET_REGISTER: Final = 1 << 10

_NO_C2: Final = 0xFFF  # a latency that marks the state as unsupported
_NO_C3: Final = 0xFFF
_ENTERPRISE_SERVER: Final = 4  # preferred power management profile

# Generic addresses
_SPACE_IO: Final = 1
_BY_BYTE: Final = 1
_BY_WORD: Final = 2
_BY_DWORD: Final = 3

# MADT
_PCAT_COMPAT: Final = 1 << 0  # there is an 8259 pair as well
_ENABLED: Final = 1 << 0
_ALL_PROCESSORS: Final = 0xFF
_CONFORMS: Final = 0  # polarity and trigger as on the bus
_ACTIVE_HIGH_LEVEL: Final = 0b1101


class AcpiTables(NamedTuple):
    """The tables as one image for guest physical address `base`; `rsdp` is the RSDP's address."""

    base: int
    rsdp: int
    image: bytes


def build(platform: Platform, base: int = at.FIRMWARE) -> AcpiTables:
    """Return the tables for guest physical address `base`, below 4 GiB and 64-byte aligned."""
    image = _Image(base)
    image.place(bytes(RSDP_SIZE), 16)
    facs = image.place(_facs(), 64)
    dsdt = image.place(_table(b"DSDT", 2, definition_block(platform)))
    fadt = image.place(_fadt(platform, facs, dsdt))
    madt = image.place(_madt(platform))
    tables = [fadt, madt]
    rsdt = image.place(_table(b"RSDT", 1, struct.pack(f"<{len(tables)}I", *tables)))
    xsdt = image.place(_table(b"XSDT", 1, struct.pack(f"<{len(tables)}Q", *tables)))
    image.data[:RSDP_SIZE] = _rsdp(rsdt, xsdt)
    return AcpiTables(base, base, bytes(image.data))


class _Block(NamedTuple):
    """A block of registers: its port, its size in bytes, and the width of the guest's accesses."""

    port: int
    length: int
    access: int


@dataclass(slots=True)
class _Image:
    base: int
    data: bytearray = field(default_factory=bytearray)

    def place(self, table: bytes, alignment: int = 16) -> int:
        """Add a table and return its address."""
        self.data += bytes(-len(self.data) % alignment)
        address = self.base + len(self.data)
        self.data += table
        return address


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    header = _HEADER.pack(
        signature, HEADER_SIZE + len(body), revision, 0, _OEM_ID, _OEM_TABLE_ID, 1, _CREATOR_ID, 1
    )
    return _summed(header + body, 9)


def _summed(table: bytes, place: int) -> bytes:
    """Set the byte at `place`, now 0, so that the sum of all bytes is 0 in eight bits."""
    return table[:place] + bytes([-sum(table) & 0xFF]) + table[place + 1 :]


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    first = _summed(struct.pack("<8sB6sBI", b"RSD PTR ", 0, _OEM_ID, 2, rsdt), 8)
    return _summed(first + struct.pack("<IQB3x", RSDP_SIZE, xsdt, 0), 32)


def _facs() -> bytes:
    """Return the FACS, memory shared by guest and firmware, which has no checksum."""
    version = 2
    return struct.pack("<4sIIIIIQB", b"FACS", FACS_SIZE, 0, 0, 0, 0, 0, version).ljust(
        FACS_SIZE, b"\0"
    )


def _fadt(platform: Platform, facs: int, dsdt: int) -> bytes:
    event = _Block(at.PORT_PM + acpi_pm.PM1_EVENT, acpi_pm.PM1_EVENT_LENGTH, _BY_WORD)
    control = _Block(at.PORT_PM + acpi_pm.PM1_CONTROL, acpi_pm.PM1_CONTROL_LENGTH, _BY_WORD)
    timer = _Block(at.PORT_PM + acpi_pm.PM_TIMER, acpi_pm.PM_TIMER_LENGTH, _BY_DWORD)
    gpe = _Block(at.PORT_PM + acpi_pm.GPE0, acpi_pm.GPE0_LENGTH, _BY_BYTE)
    none = _Block(0, 0, 0)
    # PM1a and PM1b events, PM1a and PM1b control, PM2 control, timer, GPE0 and GPE1
    blocks = (event, none, control, none, none, timer, gpe, none)
    boot = _LEGACY_DEVICES | _NO_VGA | (_HAS_8042 if platform.keyboard else 0)
    flags = _WBINVD | _PROC_C1 | _NO_SLEEP_BUTTON | _TIMER_32_BITS | _RESET_REGISTER
    body = b"".join(
        (
            struct.pack("<IIxB", facs, dsdt, _ENTERPRISE_SERVER),
            # There is no SMI command port, because the hardware starts in ACPI mode.
            struct.pack("<HIBBBB", at.IRQ_SCI, 0, 0, 0, 0, 0),
            struct.pack("<8I", *(block.port for block in blocks)),
            struct.pack("<6B", event.length, control.length, 0, timer.length, gpe.length, 0),
            struct.pack("<BB", 0, 0),  # GPE1_BASE, CST_CNT
            struct.pack("<HHHH", _NO_C2, _NO_C3, 0, 0),
            struct.pack("<BB", 0, 0),  # DUTY_OFFSET, DUTY_WIDTH
            struct.pack("<BBB", 0, 0, rtc.CENTURY),
            struct.pack("<HxI", boot, flags),
            _generic_address(_Block(at.PORT_RESET, 1, _BY_BYTE)),
            struct.pack("<BHB", reset.RESET_VALUE, 0, 4),
            struct.pack("<QQ", 0, dsdt),
            *(_generic_address(block) for block in blocks),
            _generic_address(none),  # SLEEP_CONTROL_REG
            _generic_address(none),  # SLEEP_STATUS_REG
            bytes(8),  # hypervisor vendor
        )
    )
    return _table(b"FACP", 6, body)


def _generic_address(block: _Block) -> bytes:
    """Return a block of ports as a generic address (5.2.3.2), all zero if the block is empty."""
    space = _SPACE_IO if block.length else 0
    return struct.pack("<BBBBQ", space, 8 * block.length, 0, block.access, block.port)


def _madt(platform: Platform) -> bytes:
    return _table(
        b"APIC",
        5,
        b"".join(
            (
                struct.pack("<II", at.LOCAL_APIC, _PCAT_COMPAT),
                *_local_apics(platform.apic_ids),
                struct.pack("<BBBxII", 1, 12, platform.io_apic_id, at.IO_APIC, 0),
                _override(at.IRQ_TIMER, at.GSI_TIMER, _CONFORMS),
                _override(at.IRQ_SCI, at.IRQ_SCI, _ACTIVE_HIGH_LEVEL),
                struct.pack("<BBBHB", 4, 6, _ALL_PROCESSORS, _CONFORMS, 1),  # NMI at LINT1
            )
        ),
    )


def _local_apics(apic_ids: Sequence[int]) -> list[bytes]:
    return [
        struct.pack("<BBBBI", 0, 8, number, apic_id, _ENABLED)
        for number, apic_id in enumerate(apic_ids)
    ]


def _override(irq: int, gsi: int, flags: int) -> bytes:
    """Return an entry that gives ISA interrupt `irq` another input, polarity or trigger."""
    return struct.pack("<BBBBIH", 2, 10, 0, irq, gsi, flags)
