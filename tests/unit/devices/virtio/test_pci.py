"""virtio over PCI as Linux's virtio_pci_modern reads it (virtio 1.2, 4.1)."""

from __future__ import annotations

import pytest
from tests.unit.devices.virtio.conftest import MakeRig
from tests.unit.devices.virtio.driver import PLAIN, Rig
from tests.unit.devices.virtio.echo import Echo

from ringlet.devices import pci
from ringlet.devices.virtio.pci import (
    COMMON,
    DEVICE,
    ISR,
    NOTIFY,
    NOTIFY_MULTIPLIER,
    STRUCTURES_SIZE,
)

CAPABILITY_LIST = 0x34
VENDOR_SPECIFIC, MSIX, AF = 0x09, 0x11, 0x13
COMMON_CFG, NOTIFY_CFG, ISR_CFG, DEVICE_CFG, PCI_CFG = 1, 2, 3, 4, 5


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig(Echo)


def capabilities(rig: Rig) -> list[tuple[int, int]]:
    """Return the IDs and offsets of the capabilities, as Linux walks the list."""
    read = rig.pci.function.read_config
    found = []
    at = read(CAPABILITY_LIST, 1)
    while at:
        assert at >= 0x40
        assert at % 4 == 0
        found.append((read(at, 1), at))
        at = read(at + 1, 1)
        assert len(found) < 48
    return found


def structures(rig: Rig) -> dict[int, tuple[int, int, int, int]]:
    """Return offset in the list, BAR, offset and length of each structure by its type."""
    read = rig.pci.function.read_config
    return {
        read(at + 3, 1): (at, read(at + 4, 1), read(at + 8, 4), read(at + 12, 4))
        for kind, at in capabilities(rig)
        if kind == VENDOR_SPECIFIC
    }


def window(rig: Rig) -> int:
    return structures(rig)[PCI_CFG][0]


def test_identity(rig: Rig) -> None:
    """Modern devices are 1040h and more, with a revision of 1 at least (4.1.2)."""
    read = rig.pci.function.read_config
    assert read(pci.VENDOR_ID, 2) == 0x1AF4
    assert read(pci.DEVICE_ID, 2) == 0x1040 + Echo.kind
    assert read(pci.REVISION_ID, 1) >= 1
    assert read(pci.CLASS_CODE, 2) | read(pci.CLASS_CODE + 2, 1) << 16 == Echo.class_code
    assert read(pci.SUBSYSTEM_ID, 2) >= 0x40
    assert read(pci.STATUS, 2) & pci.STATUS_CAPABILITIES


def test_structures_are_where_the_capabilities_say(rig: Rig) -> None:
    found = structures(rig)
    assert found[COMMON_CFG][1:] == (4, COMMON, 0x1000)
    assert found[ISR_CFG][1:] == (4, ISR, 0x1000)
    assert found[DEVICE_CFG][1:] == (4, DEVICE, 0x1000)
    assert found[NOTIFY_CFG][1:] == (4, NOTIFY, 0x1000)
    assert MSIX in dict(capabilities(rig))
    read = rig.pci.function.read_config
    assert read(found[NOTIFY_CFG][0] + 16, 4) == NOTIFY_MULTIPLIER
    lengths = {kind: read(place[0] + 2, 1) for kind, place in found.items()}
    assert lengths == {COMMON_CFG: 16, ISR_CFG: 16, DEVICE_CFG: 16, NOTIFY_CFG: 20, PCI_CFG: 20}


def test_configuration_of_the_device(rig: Rig) -> None:
    assert rig.config(0, 4) == 0x03020100
    rig.set(2, 2, 0xBEEF, DEVICE)
    assert rig.config(0, 8) == 0x07060504_BEEF0100
    rig.set(11, 2, 0xFFFF, DEVICE)  # half of it is beyond the end
    assert rig.config(11, 1) == 11
    assert rig.config(11, 4) == 11
    assert rig.config(0x800, 4) == 0


def test_notification_of_a_queue_that_is_not_there(rig: Rig) -> None:
    rig.start(PLAIN)
    for place in (8, 0x7FC, 0xFFC):
        rig.set(place, 2, 0, NOTIFY)
    assert rig.get(0, 2, NOTIFY) == 0
    rig.at_rest()
    assert "notifications" not in {
        name for name, n in rig.device.counters.values.items() if n > 2
    }, "the two are of the start"


# --- interrupts


def test_interrupt_by_pin(rig: Rig) -> None:
    rig.start(PLAIN, messages=False)
    head, _ = rig.send(0, [b"x"], [1])
    assert rig.came_back() == [(head, 1)]
    rig.at_rest()
    rig.post_all()
    assert rig.pin()
    assert rig.messages == []
    assert rig.isr() == 1
    assert not rig.pin()
    assert rig.isr() == 0


def test_one_call_is_posted_for_many_interrupts(rig: Rig) -> None:
    rig.start(PLAIN, messages=False)
    for _ in range(5):
        rig.send(0, [b"x"], [1])
        rig.at_rest()
    assert len(rig.posted) == 1


def test_change_of_configuration_by_pin(rig: Rig) -> None:
    rig.start(PLAIN, messages=False)
    rig.pci.config_changed()
    rig.post_all()
    assert rig.isr() == 2


def test_change_of_configuration_by_message(rig: Rig) -> None:
    rig.start(PLAIN)
    rig.set(16, 2, 0)
    rig.pci.config_changed()
    assert rig.messages == [(0xFEE0_0000, 0)]
    assert rig.isr() == 0, "with MSI-X the status is not used (4.1.4.5.1)"


def test_pin_can_be_disabled(rig: Rig) -> None:
    rig.start(PLAIN, messages=False)
    function = rig.pci.function
    function.write_config(pci.COMMAND, 2, pci.COMMAND_MEMORY | pci.COMMAND_NO_INTX)
    rig.pci.config_changed()
    rig.post_all()
    assert not any(rig.levels)
    assert function.read_config(pci.STATUS, 2) & pci.STATUS_INTERRUPT


def test_reset_releases_the_pin(rig: Rig) -> None:
    rig.start(PLAIN, messages=False)
    rig.pci.config_changed()
    rig.post_all()
    assert rig.pin()
    rig.pci.config_changed()
    rig.set(20, 1, 0)
    assert not rig.pin()
    rig.post_all()
    assert not rig.pin(), "an interrupt of before the reset"


# --- VIRTIO_PCI_CAP_PCI_CFG (4.1.4.9)


def select(rig: Rig, bar: int, offset: int, length: int) -> int:
    """Aim the window; return the offset of its data."""
    at = window(rig)
    write = rig.pci.function.write_config
    write(at + 4, 1, bar)
    write(at + 8, 4, offset)
    write(at + 12, 4, length)
    return at + 16


@pytest.mark.parametrize("size", [1, 2, 4])
def test_window_reads(rig: Rig, size: int) -> None:
    data = select(rig, 4, DEVICE + 4, size)
    expected = int.from_bytes(bytes(range(4, 4 + size)), "little")
    assert rig.pci.function.read_config(data, size) == expected
    assert rig.pci.function.read_config(data, 4) == expected


@pytest.mark.parametrize("size", [1, 2, 4])
def test_window_writes(rig: Rig, size: int) -> None:
    data = select(rig, 4, DEVICE + 8, size)
    rig.pci.function.write_config(data, size, 0xFFFF_FFFF >> 32 - 8 * size)
    assert rig.config(8, 4) & (1 << 8 * size) - 1 == (1 << 8 * size) - 1
    assert rig.config(0, 8) == 0x07060504_03020100


@pytest.mark.parametrize(
    ("bar", "offset", "length"),
    [
        (4, 0, 0), (4, 0, 3), (4, 0, 8), (4, 0, 0xFFFF_FFFF), (4, 1, 2), (4, 2, 4), (0, 0, 4),
        (1, 0, 4), (5, 0, 4), (255, 0, 4), (4, STRUCTURES_SIZE, 4), (4, 0xFFFF_FFFC, 4),
    ],
)  # fmt: skip
def test_window_at_nothing(rig: Rig, bar: int, offset: int, length: int) -> None:
    data = select(rig, bar, offset, length)
    rig.pci.function.write_config(data, 4, 0x1234)
    rig.pci.function.read_config(data, 4)
    assert rig.config(0, 8) == 0x07060504_03020100
    assert rig.get(0, 4) == 0


def test_window_reads_the_status_away(rig: Rig) -> None:
    rig.start(PLAIN, messages=False)
    rig.pci.config_changed()
    rig.post_all()
    data = select(rig, 4, ISR, 1)
    assert rig.pin(), "aiming is no read"
    assert rig.pci.function.read_config(data, 1) == 2
    assert not rig.pin()


# --- reset of the function


def test_function_reset_leaves_the_device_usable(rig: Rig) -> None:
    rig.start(PLAIN)
    head, _ = rig.send(0, [b"x"], [1])
    assert rig.came_back() == [(head, 1)]
    af = dict(capabilities(rig))[AF]
    rig.pci.function.write_config(af + 4, 1, 1)

    assert not rig.device.running
    assert rig.pci.common.save().status == 0
    assert not rig.pci.msix.enabled
    assert rig.pci.function.command == 0
    rig.start(PLAIN)
    head, _ = rig.send(0, [b"y"], [1])
    assert rig.came_back() == [(head, 1)]


def test_function_reset_releases_the_pin(rig: Rig) -> None:
    rig.start(PLAIN, messages=False)
    rig.send(0, [b"x"], [1])
    rig.at_rest()
    rig.post_all()
    before = rig.pin()
    rig.pci.function.reset()
    rig.post_all()
    assert (before, rig.pin()) == (True, False)
