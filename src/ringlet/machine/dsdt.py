"""Builds the DSDT: AML that describes the devices that a guest cannot detect by itself."""

from dataclasses import dataclass
from typing import Final

from ringlet.devices import acpi_pm, pci_host
from ringlet.machine import address_map as at
from ringlet.machine import aml

_PINS: Final = 4
_ALL_FUNCTIONS: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Platform:
    """The properties in which PCs may differ.

    With `keyboard`, the DSDT lists the keyboard controller; without it, the guest spends no time on
    looking for one.  `pci_memory_64` is a window for BARs above 4 GiB, as (first, last) address.
    """

    apic_ids: tuple[int, ...] = (0,)
    io_apic_id: int = 0
    keyboard: bool = False
    pci_memory_64: tuple[int, int] | None = None


def definition_block(platform: Platform) -> bytes:
    """Return the DSDT's AML, without the table's header."""
    return soft_off() + aml.scope(
        "\\_SB", host_bridge(platform), motherboard(), *isa_devices(platform)
    )


def soft_off() -> bytes:
    """Return the root's _S5: the value to write to SLP_TYP (ACPI 6.4, 7.4.2)."""
    sleep_type = aml.integer(acpi_pm.S5_TYPE)
    return aml.name("\\_S5", aml.package(sleep_type, sleep_type, *[aml.integer(0)] * 2))


def host_bridge(platform: Platform) -> bytes:
    """Return PCI bus 0 with the windows that it forwards and the routes of its interrupts."""
    windows = [
        aml.bus_numbers(0, 0),
        aml.io_ports(at.PORT_PCI_CONFIG, pci_host.PORTS),
        aml.io_window(0, at.PORT_PCI_CONFIG - 1),
        aml.io_window(at.PORT_PCI_CONFIG + pci_host.PORTS, 0xFFFF),
        aml.memory_window(at.DEVICE_HOLE, at.DEVICE_HOLE_END - 1),
    ]
    if platform.pci_memory_64 is not None:
        windows.append(aml.memory_window(*platform.pci_memory_64))
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_BBN", aml.integer(0)),
        aml.name("_CRS", aml.resources(*windows)),
        aml.name("_PRT", aml.package(*interrupt_routes())),
    )


def interrupt_routes() -> list[bytes]:
    """Return the entries of _PRT, which connect each pin of each slot to an input (6.2.13)."""
    return [
        aml.package(
            aml.integer(slot << 16 | _ALL_FUNCTIONS),
            aml.integer(pin),
            aml.integer(0),
            aml.integer(at.pci_gsi(slot, pin + 1)),
        )
        for slot in range(1, pci_host.SLOTS)
        for pin in range(_PINS)
    ]


def motherboard() -> bytes:
    """Return the reserved ports and memory: those of devices that other tables describe."""
    return aml.device(
        "MBRD",
        aml.name("_HID", aml.eisa_id("PNP0C02")),
        aml.name("_UID", aml.integer(0)),
        aml.name(
            "_CRS",
            aml.resources(
                aml.io_ports(at.PORT_ELCR, 2),
                aml.io_ports(at.PORT_PM, acpi_pm.PORTS),
                aml.fixed_memory(at.IO_APIC, at.IO_APIC_SIZE),
                aml.fixed_memory(at.LOCAL_APIC, at.LOCAL_APIC_SIZE),
            ),
        ),
    )


def isa_devices(platform: Platform) -> list[bytes]:
    """Return the devices at fixed ports."""
    devices = [
        _isa("COM1", "PNP0501", 1, aml.io_ports(at.PORT_COM1, 8), aml.irq(at.IRQ_COM1)),
        _isa("RTC", "PNP0B00", 0, aml.io_ports(at.PORT_RTC, 2), aml.irq(at.IRQ_RTC)),
    ]
    if platform.keyboard:
        data, command = at.PORT_KEYBOARD_DATA, at.PORT_KEYBOARD_COMMAND
        ports = aml.io_ports(data, 1) + aml.io_ports(command, 1)
        devices.append(_isa("KBD", "PNP0303", 0, ports, aml.irq(at.IRQ_KEYBOARD)))
    return devices


def _isa(name: str, hid: str, uid: int, *taken: bytes) -> bytes:
    return aml.device(
        name,
        aml.name("_HID", aml.eisa_id(hid)),
        aml.name("_UID", aml.integer(uid)),
        aml.name("_CRS", aml.resources(*taken)),
    )
