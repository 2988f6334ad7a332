"""Virtio devices in the PC: found, connected, and ended with the run."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.rng import Rng
from ringlet.errors import InternalError
from ringlet.machine import address_map as at
from ringlet.machine.pc import Options, Pc, assemble
from tests.unit.machine.fake_cpu import FakeCpu

IO_APIC_SELECT, IO_APIC_WINDOW = at.IO_APIC, at.IO_APIC + 0x10
LEVEL = 1 << 15


@pytest.fixture
def cpu() -> FakeCpu:
    return FakeCpu()


@pytest.fixture
def pc(cpu: FakeCpu) -> Iterator[Pc]:
    pc = assemble(cpu, Options(debug_exit=True, devices=[Rng, Balloon]))
    yield pc
    pc.machine.close()


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_devices_have_their_names_and_slots(cpu: FakeCpu, pc: Pc) -> None:
    assert list(pc.virtio) == ["rng", "balloon"]
    found = []
    for slot in range(at.SLOT_DEVICES, at.SLOT_DEVICES + 3):
        cpu.write(at.PORT_PCI_CONFIG, 4, 1 << 31 | slot << 11)
        found.append(cpu.read(at.PORT_PCI_CONFIG + 4, 4))
    assert found == [0x1044_1AF4, 0x1045_1AF4, 0xFFFF_FFFF]


@pytest.mark.parametrize("name", ["rng", "balloon"])
def test_pin_reaches_the_io_apic(cpu: FakeCpu, pc: Pc, name: str) -> None:
    slot = at.SLOT_DEVICES + list(pc.virtio).index(name)
    pin = at.pci_gsi(slot, 1)
    cpu.write_memory(IO_APIC_SELECT, 4, 0x10 + 2 * pin)
    cpu.write_memory(IO_APIC_WINDOW, 4, LEVEL | 0x61)
    pc.virtio[name].function.set_interrupt(True)
    assert [data & 0xFF for _, data in cpu.messages] == [0x61]


def test_threads_end_with_the_run(cpu: FakeCpu, pc: Pc) -> None:
    assert {"rng", "balloon"} <= threads()
    cpu.write(at.PORT_DEBUG_EXIT, 1, 0)
    pc.machine.run()
    assert not {"rng", "balloon"} & threads()


def test_exception_of_a_devices_thread_ends_the_run(pc: Pc) -> None:
    def wrong() -> None:
        raise ValueError("a defect of the device")

    pc.virtio["rng"].device.worker.call(wrong)
    with pytest.raises(InternalError, match="a defect of the device"):
        pc.machine.run()
    assert not {"rng", "balloon"} & threads()
