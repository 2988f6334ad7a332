"""Random accesses to PCI: `python -m tests.fuzz.pci --minutes 20`.

Configuration space by mechanism 1, BARs moved anywhere, MSI-X tables, and accesses wherever a BAR
is or was.  Nothing may raise; each value has the size that was asked for; and a driver that then
sets a function up properly finds its device.  Exit status 1 if not.
"""
from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass, field

from ringlet.devices import pci
from ringlet.devices.pci_host import PORTS, PciHost
from ringlet.devices.piix3 import PIRQS, Piix3
from ringlet.devices.piix4_pm import power_management
from ringlet.devices.reset import ResetControl
from ringlet.devices.virtio import common
from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.pci import MSIX_BAR, STRUCTURES_BAR, VirtioPci
from ringlet.devices.virtio.rng import Rng
from ringlet.devices.virtio.vsock import Vsock
from ringlet.machine import address_map as at
from ringlet.machine.bus import MemoryBus, PortBus
from ringlet.machine.pci_slots import PciSlots
from ringlet.vcpu.processor import Processor

_STEPS = 2000
_DATA = at.PORT_PCI_CONFIG + 4
_PLACES = (0xC000_0000, 0xFEC0_0000, 0xFEE0_0000, 0, 0x1000, 1 << 32, 0xFFFF_F000, 0x1234_5000)


@dataclass
class Machine:
    """Buses, the chips of the board and three devices; what was sent and complained of."""

    messages: list[tuple[int, int]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    resets: list[None] = field(default_factory=list)
    levels: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.processor = Processor(1 << 20)
        self.ports, self.memory = PortBus(), MemoryBus()
        bridge = PciHost(ResetControl(lambda: self.resets.append(None)))
        isa = Piix3([self._line(f"gsi{n}") for n in range(PIRQS)],
                    lambda irq: self._line(f"irq{irq}"), at.IRQS_PCI)
        bridge.add(at.SLOT_PIIX3, isa.function)
        bridge.add(at.SLOT_PIIX3, power_management(at.PORT_PM), number=3)
        self.ports.map(at.PORT_PCI_CONFIG, PORTS, bridge, width=4)
        slots = PciSlots(self, self.memory, bridge, isa, self,  # type: ignore[arg-type]  # a part
                         lambda line: None)
        self.devices: list[VirtioPci] = [slots.add(make) for make in (Rng, Balloon, Vsock)]

    def _line(self, name: str):  # type: ignore[no-untyped-def]  # a Line
        return lambda level: self.levels.__setitem__(name, level)

    # --- what PciSlots wants of a processor and a machine

    def guest_memory(self) -> object:
        return self.processor.guest_memory()

    def message(self, address: int, data: int) -> None:
        self.messages.append((address, data))

    def drop_code(self, address: int, size: int) -> None:
        self.processor.drop_code(address, size)

    def add_doorbell(self, address: int, size: int, value: int | None, fd: int) -> bool:
        return self.processor.add_doorbell(address, size, value, fd)

    def remove_doorbell(self, address: int, size: int, value: int | None) -> None:
        self.processor.remove_doorbell(address, size, value)

    def post(self, call) -> None:  # type: ignore[no-untyped-def]  # the guest's thread is here
        call()

    def fail(self, error: Exception) -> None:
        self.failures.append(error)

    # --- accesses

    def select(self, slot: int, function: int, register: int) -> None:
        address = 1 << 31 | slot << 11 | function << 8 | register & 0xFC
        self.ports.write(at.PORT_PCI_CONFIG, 4, address)

    def config(self, slot: int, register: int, size: int) -> int:
        self.select(slot, 0, register)
        return self.ports.read(_DATA + register % 4, size)

    def set_config(self, slot: int, register: int, size: int, value: int) -> None:
        self.select(slot, 0, register)
        self.ports.write(_DATA + register % 4, size, value)

    def close(self) -> None:
        for device in self.devices:
            device.close()


def walk(seed: int) -> list[str]:
    """Run one sample; what it broke."""
    rng = random.Random(seed)
    machine = Machine()
    try:
        for _ in range(_STEPS):
            _step(rng, machine)
        broken = _recover(machine)
    except Exception as error:  # noqa: BLE001 - it is a finding
        broken = [f"{type(error).__name__}: {error}"]
    finally:
        machine.close()
    return broken + [f"a thread: {error!r}" for error in machine.failures]


def _step(rng: random.Random, machine: Machine) -> None:
    kind = rng.randrange(10)
    size = rng.choice((1, 2, 4))
    if kind < 4:
        _config(rng, machine, size)
    elif kind < 5:
        slot = at.SLOT_DEVICES + rng.randrange(len(machine.devices))
        bar = pci.BAR0 + 4 * rng.randrange(6)
        machine.set_config(slot, bar, 4, rng.choice((*_PLACES, 0xFFFF_FFFF)))
        machine.set_config(slot, pci.COMMAND, 2, rng.choice((0, 2, 6, 7, 0xFFFF)))
    else:
        _memory(rng, machine, rng.choice((1, 2, 4, 8)))


def _config(rng: random.Random, machine: Machine, size: int) -> None:
    if rng.random() < 0.7:
        slot = rng.choice((rng.randrange(32), rng.randrange(5), rng.randrange(5)))
        machine.select(slot, rng.choice((0, 0, 0, 3, 7)), rng.randrange(256))
    else:
        machine.ports.write(at.PORT_PCI_CONFIG, 4, rng.getrandbits(32))
    port = rng.choice((_DATA, _DATA, _DATA, at.PORT_PCI_CONFIG)) + rng.randrange(4)
    if rng.random() < 0.5:
        machine.ports.write(port, size, rng.choice((rng.getrandbits(8 * size), 0, 2, 6)))
    elif not 0 <= machine.ports.read(port, size) < 1 << 8 * size:
        raise ValueError(f"port {port:#x} returns more than {size} bytes")


def _memory(rng: random.Random, machine: Machine, size: int) -> None:
    place = rng.choice(_PLACES)
    device = rng.choice(machine.devices)
    if rng.random() < 0.8:
        place = device.function.bar_address(rng.choice((MSIX_BAR, STRUCTURES_BAR))) or place
    place += rng.choice((rng.randrange(64), rng.randrange(0x4000), 0xFFF, 0x3FFE))
    if rng.random() < 0.5:
        value = rng.choice((rng.getrandbits(8 * size), 0, 1, 0xFEE0_0000))
        machine.memory.write(place, size, value & (1 << 8 * size) - 1)
    elif not 0 <= machine.memory.read(place, size) < 1 << 8 * size:
        raise ValueError(f"memory at {place:#x} returns more than {size} bytes")


def _recover(machine: Machine) -> list[str]:
    """Set all functions up; what is not as it was in the beginning."""
    slots = range(at.SLOT_DEVICES, at.SLOT_DEVICES + len(machine.devices))
    for slot in slots:
        machine.set_config(slot, pci.COMMAND, 2, 0)
    broken = []
    for slot, device in zip(slots, machine.devices, strict=True):
        address = at.DEVICE_HOLE + slot * 0x10_0000
        machine.set_config(slot, pci.BAR0 + 4 * STRUCTURES_BAR, 4, address)
        machine.set_config(slot, pci.BAR0 + 4 * STRUCTURES_BAR + 4, 4, 0)
        machine.set_config(slot, pci.BAR0 + 4 * MSIX_BAR, 4, address + 0x8000)
        machine.set_config(slot, pci.COMMAND, 2, 6)
        machine.memory.write(address + common.STATUS, 1, 0)
        found = machine.memory.read(address + common.QUEUES, 2)
        if found != len(device.device.queue_limits):
            broken.append(f"{device.device.name} has {found} queues at {address:#x}")
        if machine.config(slot, 0, 2) != 0x1AF4:
            broken.append(f"{device.device.name} lost its identity")
    return broken


def main(arguments: list[str] | None = None) -> int:
    """Run samples for a time; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.pci",
                                     description="Make random accesses to PCI functions.")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    seed, broken = options.seed, 0
    while time.monotonic() < end:
        for line in walk(seed):
            broken += 1
            print(f"seed {seed}: {line}", flush=True)
        seed += 1
    print(f"{seed - options.seed} samples of {_STEPS} accesses from seed {options.seed}")
    print(f"broken: {broken}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
