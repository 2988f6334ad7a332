"""Random accesses to PCI: `python -m tests.fuzz.pci --minutes 20`.

Configuration space by mechanism 1, BARs and the ports of the fixed ACPI hardware moved anywhere,
MSI and MSI-X, routes of pins, resets of functions, and accesses wherever a BAR is or was.  Nothing
may raise; each value has the size that was asked for; only messages are sent; a state that is saved
and restored is the same; and a driver that then sets a function up properly finds its device.  Exit
status 1 if not.
"""
from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass, field

from ringlet.devices import acpi_pm, messages, msi, pci
from ringlet.devices.acpi_pm import AcpiPm
from ringlet.devices.function_reset import AF_CONTROL, INITIATE, FunctionReset
from ringlet.devices.pci import Bar, BarKind, PciFunction, PciIdentity
from ringlet.devices.pci_host import PORTS, PciHost
from ringlet.devices.piix3 import PIRQRC, PIRQS, Piix3
from ringlet.devices.piix4_pm import PMBA, PMREGMISC, Piix4Pm
from ringlet.devices.piix4_pm import PORTS as PM_PORTS
from ringlet.devices.reset import ResetControl
from ringlet.devices.virtio import common
from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.pci import MSIX_BAR, STRUCTURES_BAR, VirtioPci
from ringlet.devices.virtio.rng import Rng
from ringlet.devices.virtio.vsock import Vsock
from ringlet.machine import address_map as at
from ringlet.machine.bus import MemoryBus, PortBus
from ringlet.machine.interrupt_messages import InterruptMessages
from ringlet.machine.pc import movable_ports
from ringlet.machine.pci_slots import Board, PciSlots, Slot
from ringlet.machine.pins import Pins
from ringlet.vcpu.processor import Processor

_STEPS = 2000
_DATA = at.PORT_PCI_CONFIG + 4
_PORT_PLACES = (0xC000, 0, 0xFFC0, 0xCC0, at.PORT_PM, 0x5678, 0xFFFF_FFFF)
_PLACES = (0xC000_0000, 0xFEC0_0000, 0xFEE0_0000, 0, 0x1000, 1 << 32, 0xFFFF_F000, 0x1234_5000)


class Card:
    """A function with ports, memory, MSI and a reset of its own."""

    IDENTITY = 0x11E8_1234

    def __init__(self, slot: Slot) -> None:
        self.function = PciFunction(
            PciIdentity(0x1234, 0x11E8, 0x00_FF_00),
            [Bar(0, BarKind.IO, 32), Bar(2, BarKind.MEMORY_64, 0x1000)],
            interrupt_pin=1, irq=slot.irq, bar_changed=slot.bar_changed,
        )
        self.msi = msi.Msi(self.function, 8, slot.send)
        FunctionReset(self.function)

    def bar(self, index: int) -> Card:
        return self

    def bells(self, index: int) -> list[tuple[int, int, int]]:
        return []

    def read(self, offset: int, size: int) -> int:
        return 0x5A

    def write(self, offset: int, size: int, value: int) -> None:
        self.function.set_interrupt(bool(value & 1))
        self.msi.trigger(value >> 1)


@dataclass
class Machine:
    """Buses, the chips of the board and four devices; what was sent and complained of."""

    received: list[tuple[int, int]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    resets: list[None] = field(default_factory=list)
    levels: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.processor = Processor(1 << 20)
        self.ports, self.memory = PortBus(), MemoryBus()
        bridge = PciHost(ResetControl(lambda: self.resets.append(None)))
        self.isa = Piix3([self._line(f"gsi{n}") for n in range(PIRQS)],
                         lambda irq: self._line(f"irq{irq}"), at.IRQS_PCI)
        self.routes = InterruptMessages({0: lambda *message: self.received.append(message)})
        self.power = AcpiPm(lambda: 0, lambda: self.resets.append(None))
        self.pm = Piix4Pm(movable_ports(self.ports, PM_PORTS, self.power))
        bridge.add(at.SLOT_PIIX3, self.isa.function)
        bridge.add(at.SLOT_PIIX3, self.pm.function, number=3)
        self.pm.place(at.PORT_PM)
        self.ports.map(at.PORT_PCI_CONFIG, PORTS, bridge, width=4)
        board = Board(Pins(self), self.routes.send, self.ports,  # type: ignore[arg-type]  # a part
                      self.memory, bridge, self.isa)
        slots = PciSlots(board, self.guest_memory, self,  # type: ignore[arg-type]  # a part, too
                         lambda line: None)
        self.devices: list[VirtioPci] = [slots.add(make) for make in (Rng, Balloon, Vsock)]
        self.card = slots.put(Card)
        self.bridge = bridge

    def _line(self, name: str):  # type: ignore[no-untyped-def]  # a Line
        return lambda level: self.levels.__setitem__(name, level)

    def reachable(self) -> None:
        """Make the configuration ports answer, whatever has been moved over them."""
        self.ports.unmap(at.PORT_PCI_CONFIG, self.bridge)
        self.ports.map(at.PORT_PCI_CONFIG, PORTS, self.bridge, width=4, over=True)

    # --- what PciSlots wants of a processor and a machine

    def guest_memory(self) -> object:
        return self.processor.guest_memory()

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

    def config(self, slot: int, register: int, size: int, function: int = 0) -> int:
        self.select(slot, function, register)
        return self.ports.read(_DATA + register % 4, size)

    def set_config(
        self, slot: int, register: int, size: int, value: int, function: int = 0
    ) -> None:
        self.select(slot, function, register)
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
            _check(machine)
        _move_states(machine)
        broken = _recover(machine)
    except Exception as error:  # noqa: BLE001 - it is a finding
        broken = [f"{type(error).__name__}: {error}"]
    finally:
        machine.close()
    return broken + [f"a thread: {error!r}" for error in machine.failures]


def _step(rng: random.Random, machine: Machine) -> None:
    kind = rng.randrange(13)
    size = rng.choice((1, 2, 4))
    if kind < 4:
        _config(rng, machine, size)
    elif kind < 5:
        slot = at.SLOT_DEVICES + rng.randrange(len(machine.devices))
        bar = pci.BAR0 + 4 * rng.randrange(6)
        machine.set_config(slot, bar, 4, rng.choice((*_PLACES, 0xFFFF_FFFF)))
        machine.set_config(slot, pci.COMMAND, 2, rng.choice((0, 2, 6, 7, 0xFFFF)))
    elif kind < 6:
        _chips(rng, machine)
    elif kind < 8:
        _card(rng, machine)
    else:
        _memory(rng, machine, rng.choice((1, 2, 4, 8)))


def _chips(rng: random.Random, machine: Machine) -> None:
    """Move the fixed ACPI hardware, and route pins to the 8259 pair."""
    slot = at.SLOT_PIIX3
    if rng.random() < 0.5:
        machine.set_config(slot, PIRQRC + rng.randrange(PIRQS), 1, rng.getrandbits(8))
    else:
        machine.set_config(slot, PMBA, 4, rng.choice(_PORT_PLACES), function=3)
        machine.set_config(slot, PMREGMISC, 1, rng.choice((0, 1, 1, 0xFF)), function=3)
        if rng.random() < 0.9:
            machine.reachable()


def _card(rng: random.Random, machine: Machine) -> None:
    """Set MSI up, reset a function, or use the ports of the card."""
    card, slot = machine.card, at.SLOT_DEVICES + len(machine.devices)
    kind = rng.randrange(5)
    if kind == 0:
        machine.set_config(slot, pci.BAR0, 4, rng.choice(_PORT_PLACES))
        machine.set_config(slot, pci.COMMAND, 2, rng.choice((0, 1, 3, 5, 7)))
        machine.reachable()
    elif kind == 1:
        offset = _capability(machine, slot, msi.CAPABILITY)
        machine.set_config(slot, offset + msi.ADDRESS, 4, rng.choice((0, 0xFEE0_0000, 0xFEEF_FFE4)))
        machine.set_config(slot, offset + msi.CONTROL, 2, rng.getrandbits(16))
        machine.set_config(slot, offset + msi.MASK, 4, rng.choice((0, 0xFF, rng.getrandbits(32))))
    elif kind == 2 and rng.random() < 0.3:
        slot = at.SLOT_DEVICES + rng.randrange(len(machine.devices) + 1)
        offset = _capability(machine, slot, 0x13)
        machine.set_config(slot, offset + AF_CONTROL, 1, INITIATE)
    else:
        port = (card.function.bar_address(0) or 0xC000) + rng.randrange(34)
        size = rng.choice((1, 2, 4))
        machine.ports.write(port & 0xFFFF, size, rng.getrandbits(8 * size))
        if not 0 <= machine.ports.read(port & 0xFFFF, size) < 1 << 8 * size:
            raise ValueError(f"port {port:#x} returns more than {size} bytes")


def _capability(machine: Machine, slot: int, kind: int) -> int:
    """Return the offset of a capability, or any; the list is what the guest reads."""
    offset = machine.config(slot, pci.CAPABILITIES, 1)
    for _ in range(48):
        if machine.config(slot, offset, 1) == kind:
            return offset
        offset = machine.config(slot, offset + 1, 1)
    return 0x40


def _check(machine: Machine) -> None:
    """Raise ValueError for a message that is none."""
    for address, data in machine.received:
        if address >> 20 != messages.PAGE or (messages.destination_of(address) not in {
            0, messages.BROADCAST,
        } and not address & messages.LOGICAL):
            raise ValueError(f"a message {data:#x} to {address:#x} reached processor 0")
    machine.received.clear()


def _move_states(machine: Machine) -> None:
    """Save and restore the chips and the card; raise ValueError if a state does not stay."""
    for part in (machine.isa, machine.pm, machine.card.function, machine.card.msi):
        state = part.save()
        part.restore(state)  # type: ignore[arg-type]  # its own
        if part.save() != state:
            raise ValueError(f"{type(part).__name__}: {part.save()} was {state}")


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
    machine.reachable()
    slots = range(at.SLOT_DEVICES, at.SLOT_DEVICES + len(machine.devices))
    for slot in (*slots, slots.stop):
        machine.set_config(slot, pci.COMMAND, 2, 0)
    machine.set_config(at.SLOT_PIIX3, PMBA, 4, 0xB000, function=3)
    machine.set_config(at.SLOT_PIIX3, PMREGMISC, 1, 1, function=3)
    broken = []
    if not machine.ports.read(0xB000 + acpi_pm.PM1_CONTROL, 2) & acpi_pm.SCI_EN:
        broken.append("the fixed ACPI hardware is not at B000h")
    machine.set_config(slots.stop, pci.BAR0, 4, 0xD000)
    machine.set_config(slots.stop, pci.COMMAND, 2, 1)
    if machine.ports.read(0xD000, 1) != 0x5A or machine.config(slots.stop, 0, 4) != Card.IDENTITY:
        broken.append("the card does not answer at D000h")
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
