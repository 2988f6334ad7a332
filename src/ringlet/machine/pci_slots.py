"""Puts devices in the slots of PCI bus 0, as the machine's firmware would set them up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from ringlet.devices.pci import BAR0, INTERRUPT_LINE, Bar, BarChanged, BarKind, PciFunction
from ringlet.devices.pci_host import PciHost
from ringlet.devices.piix3 import Piix3
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.pci import Surroundings, VirtioPci
from ringlet.devices.wiring import Line, Message, PortDevice
from ringlet.errors import InternalError
from ringlet.machine import address_map as at
from ringlet.machine.bus import MemoryBus, PortBus
from ringlet.machine.pins import Pins
from ringlet.mmu.guest_memory import GuestMemory

MakeDevice = Callable[[Callable[[Exception], None]], VirtioDevice]
"""Makes a device, given what to call with an exception of its thread."""

_INTERRUPT_PIN_A: Final = 1


class Card(Protocol):
    """A device on PCI; its function has at most one pin, INTA#."""

    @property
    def function(self) -> PciFunction:
        """The function."""

    def bar(self, index: int) -> PortDevice:
        """Return what answers in BAR `index`."""

    def bells(self, index: int) -> Sequence[tuple[int, int, int]]:
        """Return the doorbells in memory BAR `index`: offset, bytes of a write, eventfd."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a slot has for the card in it: where messages go, INTA#, and what moves its BARs."""

    send: Message
    irq: Line
    bar_changed: BarChanged


AnyCard = TypeVar("AnyCard", bound=Card)


class Host(Protocol):
    """What the devices' threads ask of the machine; any thread may call these."""

    def post(self, call: Callable[[], None]) -> None: ...

    def fail(self, error: Exception) -> None: ...


@dataclass(frozen=True, slots=True)
class Board:
    """What the slots are connected to; any thread may call `send`."""

    pins: Pins
    send: Message
    ports: PortBus
    memory: MemoryBus
    bridge: PciHost
    isa: Piix3


class PciSlots:
    """The slots from `SLOT_DEVICES` on, which are filled in their order."""

    def __init__(
        self,
        board: Board,
        ram: Callable[[], GuestMemory],
        host: Host,
        complain: Callable[[str], None],
    ) -> None:
        self._board = board
        self._ram: Callable[[], GuestMemory] | None = ram
        self._host = host
        self._complain = complain
        self._next_slot = at.SLOT_DEVICES
        self._next_address = at.DEVICE_HOLE
        self._next_port = at.PORT_PCI_DEVICES
        self._mapped: dict[tuple[PciFunction, int], int] = {}

    def add(self, make: MakeDevice) -> VirtioPci:
        """Put a virtio device in the next slot.  Raises InternalError if there is none."""
        board, ram = self._board, self._ram
        if ram is None:
            slot = self._next_slot
            raise InternalError("a machine that was taken apart gets no devices", {"slot": slot})

        def card(slot: Slot) -> VirtioPci:
            around = Surroundings(
                memory=ram(),
                send=slot.send,
                irq=slot.irq,
                bar_changed=slot.bar_changed,
                post=self._host.post,
                drop_code=board.pins.drop_code,
                complain=self._complain,
            )
            return VirtioPci(make(self._host.fail), around)

        return self.put(card)

    def put(self, make: Callable[[Slot], AnyCard]) -> AnyCard:
        """Put a card in the next slot.  Raises InternalError if there is none."""
        number = self._next_slot
        self._next_slot += 1
        made: list[AnyCard] = []

        def moved(function: PciFunction, bar: Bar, address: int | None) -> None:
            self._moved(made[0], bar, address)

        pirq = at.pirq(number, _INTERRUPT_PIN_A)
        made.append(make(Slot(self._board.send, self._board.isa.tap(pirq), moved)))
        function = made[0].function
        self._board.bridge.add(number, function)
        self._assign(function)
        function.write_config(INTERRUPT_LINE, 1, at.IRQS_PCI[pirq])
        return made[0]

    def forget_memory(self) -> None:
        """Let go of the guest's memory."""
        self._ram = None

    def _assign(self, function: PciFunction) -> None:
        """Give the BARs addresses; the guest's driver lets them answer."""
        for bar in function.bars:
            if bar.kind is BarKind.IO:
                address = -(-self._next_port // bar.size) * bar.size
                self._next_port = end = address + bar.size
                limit = at.PORT_PCI_DEVICES_END
            else:
                address = -(-self._next_address // bar.size) * bar.size
                self._next_address = end = address + bar.size
                limit = at.DEVICE_HOLE_END
            if end > limit:
                raise InternalError("no room for a BAR", {"size": bar.size})
            function.write_config(BAR0 + 4 * bar.index, 4, address)

    def _moved(self, card: Card, bar: Bar, address: int | None) -> None:
        key = (card.function, bar.index)
        target = card.bar(bar.index)
        before = self._mapped.pop(key, None)
        if before is not None:
            self._unmap(card, bar, before, target)
        if address is not None:
            self._mapped[key] = address
            self._map(card, bar, address, target)

    def _map(self, card: Card, bar: Bar, address: int, target: PortDevice) -> None:
        if bar.kind is BarKind.IO:
            self._board.ports.map(address, bar.size, target, width=4, over=True)
            return
        self._board.memory.map(address, bar.size, target)
        for offset, size, fd in card.bells(bar.index):
            # Without room for it, the device gets the write itself.
            self._board.pins.add_doorbell(address + offset, size, None, fd)

    def _unmap(self, card: Card, bar: Bar, address: int, target: PortDevice) -> None:
        if bar.kind is BarKind.IO:
            self._board.ports.unmap(address, target)
            return
        self._board.memory.unmap(address, target)
        for offset, size, _ in card.bells(bar.index):
            self._board.pins.remove_doorbell(address + offset, size, None)
