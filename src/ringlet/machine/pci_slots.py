"""Puts virtio devices in the slots of PCI bus 0, as the machine's firmware would set them up."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ringlet.devices.msix import BAR_SIZE
from ringlet.devices.pci import BAR0, Bar, PciFunction
from ringlet.devices.pci_host import PciHost
from ringlet.devices.piix3 import Piix3
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.pci import (
    MSIX_BAR,
    NOTIFY,
    NOTIFY_MULTIPLIER,
    STRUCTURES_BAR,
    STRUCTURES_SIZE,
    Surroundings,
    VirtioPci,
)
from ringlet.errors import InternalError
from ringlet.machine import address_map as at
from ringlet.machine.bus import MemoryBus
from ringlet.machine.pins import Pins
from ringlet.mmu.guest_memory import GuestMemory

MakeDevice = Callable[[Callable[[Exception], None]], VirtioDevice]
"""Makes a device, given what to call with an exception of its thread."""

_INTERRUPT_PIN_A: Final = 1
_NOTIFY_SIZE: Final = 2  # a notification is the number of the queue


class Host(Protocol):
    """What the devices' threads ask of the machine; any thread may call these."""

    def post(self, call: Callable[[], None]) -> None: ...

    def fail(self, error: Exception) -> None: ...


class PciSlots:
    """The slots from `SLOT_DEVICES` on, which are filled in their order."""

    def __init__(
        self,
        pins: Pins,
        ram: Callable[[], GuestMemory],
        memory: MemoryBus,
        bridge: PciHost,
        isa: Piix3,
        host: Host,
        complain: Callable[[str], None],
    ) -> None:
        self._pins = pins
        self._ram: Callable[[], GuestMemory] | None = ram
        self._memory = memory
        self._bridge = bridge
        self._isa = isa
        self._host = host
        self._complain = complain
        self._next_slot = at.SLOT_DEVICES
        self._next_address = at.DEVICE_HOLE
        self._mapped: dict[tuple[PciFunction, int], int] = {}

    def add(self, make: MakeDevice) -> VirtioPci:
        """Put a device in the next slot.  Raises InternalError if there is none."""
        slot = self._next_slot
        self._next_slot += 1
        made: list[VirtioPci] = []
        if self._ram is None:
            raise InternalError("a machine that was taken apart gets no devices", {"slot": slot})

        def moved(function: PciFunction, bar: Bar, address: int | None) -> None:
            self._moved(made[0], bar, address)

        around = Surroundings(
            memory=self._ram(),
            send=self._pins.message,
            irq=self._isa.tap(at.pirq(slot, _INTERRUPT_PIN_A)),
            bar_changed=moved,
            post=self._host.post,
            drop_code=self._pins.drop_code,
            complain=self._complain,
        )
        made.append(VirtioPci(make(self._host.fail), around))
        self._bridge.add(slot, made[0].function)
        self._assign(made[0].function, [(MSIX_BAR, BAR_SIZE), (STRUCTURES_BAR, STRUCTURES_SIZE)])
        return made[0]

    def forget_memory(self) -> None:
        """Let go of the guest's memory."""
        self._ram = None

    def _assign(self, function: PciFunction, bars: Sequence[tuple[int, int]]) -> None:
        """Give the BARs addresses; the guest's driver lets them answer."""
        for index, size in bars:
            address = -(-self._next_address // size) * size
            self._next_address = address + size
            if self._next_address > at.DEVICE_HOLE_END:
                raise InternalError("no room for a BAR", {"size": size})
            function.write_config(BAR0 + 4 * index, 4, address)

    def _moved(self, device: VirtioPci, bar: Bar, address: int | None) -> None:
        key = (device.function, bar.index)
        target = device.bar(bar.index)
        before = self._mapped.pop(key, None)
        if before is not None:
            self._memory.unmap(before, target)
            for place, _ in _doorbells(device, bar, before):
                self._pins.remove_doorbell(place, _NOTIFY_SIZE, None)
        if address is not None:
            self._mapped[key] = address
            self._memory.map(address, bar.size, target)
            for place, fd in _doorbells(device, bar, address):
                # Without room for it, the device gets the write itself.
                self._pins.add_doorbell(place, _NOTIFY_SIZE, None, fd)


def _doorbells(device: VirtioPci, bar: Bar, base: int) -> list[tuple[int, int]]:
    """Return the addresses of notifications in a BAR at `base`, each with its eventfd."""
    if bar.index != STRUCTURES_BAR:
        return []
    bells = device.device.doorbells
    return [(base + NOTIFY + NOTIFY_MULTIPLIER * i, fd) for i, fd in enumerate(bells)]
