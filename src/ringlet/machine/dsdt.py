"""Builds the DSDT: AML that describes the devices that a guest cannot detect by itself."""

from dataclasses import dataclass
from typing import Final

from ringlet.devices import acpi_pm, pci_host, piix3, piix4_pm
from ringlet.machine import address_map as at
from ringlet.machine import aml
from ringlet.machine import aml_resources as resource

_PINS: Final = 4
_ALL_FUNCTIONS: Final = 0xFFFF

_IO_APIC_MODE: Final = "\\PICM"
"""What the guest has told by _PIC: 0 for the 8259 pair, 1 for the I/O APIC."""
_ISA_BRIDGE: Final = "\\_SB.PCI0.ISA"
_LINKS: Final = "ABCD"
_ROUTES: Final = (5, 10, 11)
"""The inputs of the 8259 pair that no ISA device has."""
_PRESENT: Final = 0b1001  # of _STA (6.3.7): present and working
_ENABLED: Final = 0b1011


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
    return (
        soft_off()
        + interrupt_mode()
        + aml.scope(
            "\\_SB",
            host_bridge(platform),
            *interrupt_links(),
            motherboard(),
            *isa_devices(platform),
        )
    )


def soft_off() -> bytes:
    """Return the root's _S5: the value to write to SLP_TYP (ACPI 6.4, 7.4.2)."""
    sleep_type = aml.integer(acpi_pm.S5_TYPE)
    return aml.name("\\_S5", aml.package(sleep_type, sleep_type, *[aml.integer(0)] * 2))


def interrupt_mode() -> bytes:
    """Return _PIC, by which the guest tells which interrupt controller it uses (5.8.1)."""
    mode = aml.path(_IO_APIC_MODE)
    return aml.name(_IO_APIC_MODE, aml.integer(0)) + aml.method(
        "\\_PIC", 1, aml.store(aml.arg(0), mode)
    )


def host_bridge(platform: Platform) -> bytes:
    """Return PCI bus 0 with the windows that it forwards and the routes of its interrupts."""
    windows = [
        resource.bus_numbers(0, 0),
        resource.io_ports(at.PORT_PCI_CONFIG, pci_host.PORTS),
        resource.io_window(0, at.PORT_PCI_CONFIG - 1),
        resource.io_window(at.PORT_PCI_CONFIG + pci_host.PORTS, 0xFFFF),
        resource.memory_window(at.DEVICE_HOLE, at.DEVICE_HOLE_END - 1),
    ]
    if platform.pci_memory_64 is not None:
        windows.append(resource.memory_window(*platform.pci_memory_64))
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_BBN", aml.integer(0)),
        aml.name("_CRS", resource.resources(*windows)),
        aml.name("PRTA", aml.package(*routes_to_io_apic())),
        aml.name("PRTP", aml.package(*routes_to_links())),
        aml.method(
            "_PRT",
            0,
            aml.if_(aml.path(_IO_APIC_MODE), aml.return_(aml.path("PRTA"))),
            aml.return_(aml.path("PRTP")),
        ),
        isa_bridge(),
    )


def routes_to_io_apic() -> list[bytes]:
    """Return the entries of _PRT, which connect each pin of each slot to an input (6.2.13)."""
    return [
        _route(slot, pin, aml.integer(0), at.pci_gsi(slot, pin + 1))
        for slot in range(1, pci_host.SLOTS)
        for pin in range(_PINS)
    ]


def routes_to_links() -> list[bytes]:
    """Return the entries of _PRT, which connect each pin of each slot to a link device."""
    return [
        _route(slot, pin, aml.path(f"LNK{_LINKS[at.pirq(slot, pin + 1)]}"), 0)
        for slot in range(1, pci_host.SLOTS)
        for pin in range(_PINS)
    ]


def _route(slot: int, pin: int, source: bytes, index: int) -> bytes:
    address = aml.integer(slot << 16 | _ALL_FUNCTIONS)
    return aml.package(address, aml.integer(pin), source, aml.integer(index))


def isa_bridge() -> bytes:
    """Return the PIIX3 with its registers PIRQRC, which route PCI interrupts to the 8259 pair."""
    return aml.device(
        "ISA",
        aml.name("_ADR", aml.integer(at.SLOT_PIIX3 << 16)),
        aml.config_bytes("PIRQ", piix3.PIRQRC, [f"RQ{letter}" for letter in _LINKS]),
    )


def interrupt_links() -> list[bytes]:
    """Return the link devices LNKA to LNKD (6.2.13), each with the methods that they share."""
    disabled = aml.both(aml.arg(0), aml.integer(piix3.NOT_ROUTED))
    status = aml.method(
        "LSTA",
        1,
        aml.if_(disabled, aml.return_(aml.integer(_PRESENT))),
        aml.return_(aml.integer(_ENABLED)),
    )
    current = aml.method(
        "LCRS",
        1,
        aml.name("LBUF", resource.resources(resource.pci_interrupts(0))),
        aml.dword_field(aml.path("LBUF"), resource.INTERRUPT_NUMBER, "LIRQ"),
        aml.if_(disabled, aml.store(aml.integer(0), aml.path("LIRQ"))),
        aml.else_(aml.store(aml.arg(0), aml.path("LIRQ"))),
        aml.return_(aml.path("LBUF")),
        serialized=True,
    )
    return [status, current, *(_link(number) for number in range(piix3.PIRQS))]


def _link(number: int) -> bytes:
    route = aml.path(f"{_ISA_BRIDGE}.RQ{_LINKS[number]}")
    return aml.device(
        f"LNK{_LINKS[number]}",
        aml.name("_HID", aml.eisa_id("PNP0C0F")),
        aml.name("_UID", aml.integer(number)),
        aml.name("_PRS", resource.resources(resource.pci_interrupts(*_ROUTES))),
        aml.method("_STA", 0, aml.return_(aml.call("LSTA", route))),
        aml.method("_CRS", 0, aml.return_(aml.call("LCRS", route))),
        aml.method("_DIS", 0, aml.set_bits(aml.integer(piix3.NOT_ROUTED), route)),
        aml.method(
            "_SRS",
            1,
            aml.dword_field(aml.arg(0), resource.INTERRUPT_NUMBER, "LIRQ"),
            aml.store(aml.path("LIRQ"), route),
            serialized=True,
        ),
    )


def motherboard() -> bytes:
    """Return the reserved ports and memory: those of devices that other tables describe."""
    return aml.device(
        "MBRD",
        aml.name("_HID", aml.eisa_id("PNP0C02")),
        aml.name("_UID", aml.integer(0)),
        aml.name(
            "_CRS",
            resource.resources(
                resource.io_ports(at.PORT_ELCR, 2),
                resource.io_ports(at.PORT_PM, piix4_pm.PORTS),
                resource.fixed_memory(at.IO_APIC, at.IO_APIC_SIZE),
                resource.fixed_memory(at.LOCAL_APIC, at.LOCAL_APIC_SIZE),
            ),
        ),
    )


def isa_devices(platform: Platform) -> list[bytes]:
    """Return the devices at fixed ports."""
    com1 = resource.io_ports(at.PORT_COM1, 8), resource.irq(at.IRQ_COM1)
    devices = [
        _isa("COM1", "PNP0501", 1, *com1),
        _isa("RTC", "PNP0B00", 0, resource.io_ports(at.PORT_RTC, 2), resource.irq(at.IRQ_RTC)),
    ]
    if platform.keyboard:
        data, command = at.PORT_KEYBOARD_DATA, at.PORT_KEYBOARD_COMMAND
        ports = resource.io_ports(data, 1) + resource.io_ports(command, 1)
        devices.append(_isa("KBD", "PNP0303", 0, ports, resource.irq(at.IRQ_KEYBOARD)))
    return devices


def _isa(name: str, hid: str, uid: int, *taken: bytes) -> bytes:
    return aml.device(
        name,
        aml.name("_HID", aml.eisa_id(hid)),
        aml.name("_UID", aml.integer(uid)),
        aml.name("_CRS", resource.resources(*taken)),
    )
