"""The $PIR table against Microsoft's specification, as Linux's arch/x86/pci/irq.c reads it."""

import struct

from ringlet.devices.piix3 import PIRQRC
from ringlet.machine import address_map as at
from ringlet.machine.pci_routing import routing_table


def test_header() -> None:
    table = routing_table()
    signature, version, size, bus, function, exclusive = struct.unpack_from("<4sHHBBH", table)

    assert (signature, version, size) == (b"$PIR", 0x0100, len(table))
    assert size <= 0x10000
    assert (bus, function) == (0, at.SLOT_PIIX3 << 3)
    assert exclusive == 1 << 10 | 1 << 11
    assert struct.unpack_from("<HH", table, 12) == (0x8086, 0x7000)
    assert sum(table) & 0xFF == 0


def test_every_pin_of_every_slot_has_the_register_of_its_line() -> None:
    slots = [*struct.iter_unpack("<BBBHBHBHBHBB", routing_table()[32:])]

    assert [slot[1] >> 3 for slot in slots] == [*range(1, 32)]
    assert all(slot[0] == 0 and slot[10:] == (0, 0) for slot in slots)
    links = [[*slot[2:10:2]] for slot in slots]
    assert links == [
        [PIRQRC + at.pirq(slot, pin) for pin in range(1, 5)] for slot in range(1, 32)
    ]
    assert {mask for slot in slots for mask in slot[3:11:2]} == {1 << 10 | 1 << 11}


def test_place_is_where_a_guest_searches() -> None:
    assert at.PCI_ROUTING_TABLE % 16 == 0
    assert 0xF0000 <= at.PCI_ROUTING_TABLE <= at.HIGH_RAM - len(routing_table())
