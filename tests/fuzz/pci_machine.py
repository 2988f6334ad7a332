"""A processor with buses, the chips of the board and devices on PCI, whose accesses are fuzzed."""
from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from ringlet.devices import pci
from ringlet.devices.backends.network.link import Framing
from ringlet.devices.ioapic import IoApic
from ringlet.devices.pci_host import PORTS, PciHost
from ringlet.devices.piix3 import PIRQS, Piix3
from ringlet.devices.piix4_pm import Piix4Pm
from ringlet.devices.reset import ResetControl
from ringlet.devices.virtio.balloon import Balloon
from ringlet.devices.virtio.console import Console, Port
from ringlet.devices.virtio.net import Net
from ringlet.devices.virtio.pci import VirtioPci
from ringlet.devices.virtio.rng import Rng
from ringlet.devices.virtio.vsock import Vsock
from ringlet.machine import address_map as at
from ringlet.machine import pci_slots
from ringlet.machine.bus import MemoryBus, PortBus
from ringlet.machine.pins import Pins
from tests.fuzz.virtio_hosts import FuzzLink
from tests.unit.vcpu.board import DEVICE_PT, HANDLERS, PML4, Board

DATA = at.PORT_PCI_CONFIG + 4
_MESSAGES = 0xFEE
_TABLES = ((PML4, DEVICE_PT + 0x1000 - PML4), (HANDLERS, 0x200))


@dataclass
class Machine:
    """Buses, the chips of the board and devices; what was sent and complained of."""

    messages: list[tuple[int, int]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    resets: list[None] = field(default_factory=list)
    levels: dict[str, bool] = field(default_factory=dict)
    posted: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.board = Board()
        self.processor = self.board.p
        self._tables = [(base, self.processor.read_phys(base, size)) for base, size in _TABLES]
        self.ports, self.memory = PortBus(), MemoryBus()
        self.processor.attach_memory(self.memory.read, self.memory.write)
        self.processor.attach_ports(self.ports.read, self.ports.write)
        bridge = PciHost(ResetControl(lambda: self.resets.append(None)))
        isa = Piix3([self._line(f"gsi{n}") for n in range(PIRQS)],
                    lambda irq: self._line(f"irq{irq}"), at.IRQS_PCI)
        bridge.add(at.SLOT_PIIX3, isa.function)
        bridge.add(at.SLOT_PIIX3, Piix4Pm(lambda base: None).function, number=3)
        self.ports.map(at.PORT_PCI_CONFIG, PORTS, bridge, width=4)
        ioapic = IoApic(self.processor.message)
        self.processor.attach_level(ioapic.end_of_interrupt)
        self.memory.map(at.IO_APIC, at.IO_APIC_SIZE, ioapic)
        self.link = FuzzLink(Framing.STREAM, 1500)
        self.stream, theirs = socket.socketpair()
        board = pci_slots.Board(Pins(self), self.message,  # type: ignore[arg-type]  # a part
                                self.ports, self.memory, bridge, isa)
        slots = pci_slots.PciSlots(board, self.guest_memory, self,  # type: ignore[arg-type]  # too
                                   lambda line: None)
        self.devices: list[VirtioPci] = [slots.add(make) for make in (
            Rng, Balloon, Vsock, lambda failed: Net(self.link, failed),
            lambda failed: Console([Port("port0", theirs.detach(), console=True)], failed))]

    def _line(self, name: str):  # type: ignore[no-untyped-def]  # a Line
        return lambda level: self.levels.__setitem__(name, level)

    # --- what PciSlots wants of a processor and a machine

    def guest_memory(self) -> object:
        return self.processor.guest_memory()

    def message(self, address: int, data: int) -> None:
        if address >> 20 != _MESSAGES:
            raise ValueError(f"a message to {address:#x}")
        self.messages.append((address, data))
        self.processor.message(address, data)

    def drop_code(self, address: int, size: int) -> None:
        self.processor.drop_code(address, size)

    def add_doorbell(self, address: int, size: int, value: int | None, fd: int) -> bool:
        return self.processor.add_doorbell(address, size, value, fd)

    def remove_doorbell(self, address: int, size: int, value: int | None) -> None:
        self.processor.remove_doorbell(address, size, value)

    def post(self, call: Callable[[], None]) -> None:
        self.posted.append(call)

    def fail(self, error: Exception) -> None:
        self.failures.append(error)

    # --- accesses

    def mend(self) -> None:
        """Write the guest's own tables anew, which its accesses may have changed."""
        for base, content in self._tables:
            self.processor.write_phys(base, content)
            self.processor.drop_code(base, len(content))

    def work(self) -> None:
        """Call what was posted to the guest's thread."""
        while self.posted:
            self.posted.pop(0)()

    def select(self, slot: int, function: int, register: int) -> None:
        address = 1 << 31 | slot << 11 | function << 8 | register & 0xFC
        self.ports.write(at.PORT_PCI_CONFIG, 4, address)

    def config(self, slot: int, register: int, size: int) -> int:
        self.select(slot, 0, register)
        return self.ports.read(DATA + register % 4, size)

    def set_config(self, slot: int, register: int, size: int, value: int) -> None:
        self.select(slot, 0, register)
        self.ports.write(DATA + register % 4, size, value)

    def slot(self, device: VirtioPci) -> int:
        """Return the slot of one of `devices`."""
        return at.SLOT_DEVICES + self.devices.index(device)

    def bar(self, device: VirtioPci, index: int, kind: pci.BarKind) -> int | None:
        """Return where a memory BAR of a device answers, as its registers say it."""
        slot = self.slot(device)
        if not self.config(slot, pci.COMMAND, 2) & pci.COMMAND_MEMORY:
            return None
        low = self.config(slot, pci.BAR0 + 4 * index, 4)
        if kind is pci.BarKind.MEMORY_64:
            low |= self.config(slot, pci.BAR0 + 4 * index + 4, 4) << 32
        return low & ~0xF or None

    def close(self) -> None:
        """End the devices and the processor's side of them."""
        for device in self.devices:
            device.close()
        self.link.close()
        self.stream.close()
