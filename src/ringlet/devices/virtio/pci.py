"""The transport of virtio devices over PCI, modern only (virtio 1.2, 4.1).

BAR 0 has the MSI-X table, BAR 4 the four structures, each in a page of its own:

    0x0000  common configuration
    0x1000  interrupt status
    0x2000  configuration of the device
    0x3000  notifications, four bytes for each queue
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from ringlet.devices.function_reset import FunctionReset
from ringlet.devices.msix import BAR_SIZE, Msix, MsixState
from ringlet.devices.pci import (
    Bar,
    BarChanged,
    BarKind,
    PciFunction,
    PciFunctionState,
    PciIdentity,
)
from ringlet.devices.virtio.common import CommonConfig, CommonState
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.queue import Queue
from ringlet.devices.wiring import Line, Message
from ringlet.errors import InternalError
from ringlet.mmu.guest_memory import GuestMemory

VENDOR: Final = 0x1AF4
DEVICE_BASE: Final = 0x1040
REVISION: Final = 1

MSIX_BAR: Final = 0
STRUCTURES_BAR: Final = 4
STRUCTURES_SIZE: Final = 0x4000
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
_PAGE: Final = 0x1000
NOTIFY_MULTIPLIER: Final = 4
NOTIFY_SIZE: Final = 2  # a notification is the number of the queue

COMPLAINTS: Final = 5
"""Lines that the user sees about the driver's faults: it may repeat them without end."""

ISR_QUEUE: Final = 1
ISR_CONFIG: Final = 2

# virtio_pci_cap (4.1.4)
_VENDOR_CAPABILITY: Final = 0x09
_COMMON_CFG, _NOTIFY_CFG, _ISR_CFG, _DEVICE_CFG, _PCI_CFG = 1, 2, 3, 4, 5
_CAP_BAR: Final = 2  # offsets in the body, which lacks the first two bytes
_CAP_OFFSET: Final = 6
_CAP_LENGTH: Final = 10
_PCI_CFG_DATA: Final = 16  # offset in the capability


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a function needs from the machine: its memory, until it is freed, lines and threads."""

    memory: GuestMemory | None
    send: Message
    irq: Line
    bar_changed: BarChanged
    post: Callable[[Callable[[], None]], None]
    drop_code: Callable[[int, int], None]
    complain: Callable[[str], None]


@dataclass(slots=True)
class VirtioPciState:
    """The state of the function and of the queues; the device's own is beside it."""

    function: PciFunctionState
    msix: MsixState
    common: CommonState
    isr: int = 0
    device: object = field(default=None)


class VirtioPci:
    """A virtio device as a function of PCI."""

    def __init__(self, device: VirtioDevice, around: Surroundings) -> None:
        self.device = device
        self._around = around
        self._isr = 0
        self._complaints = 0
        self._raised = 0  # bits of `_isr` that wait for the guest's thread
        self._raising = threading.Lock()
        self.function = PciFunction(
            PciIdentity(
                VENDOR, DEVICE_BASE + device.kind, device.class_code, REVISION, VENDOR,
                DEVICE_BASE + device.kind,
            ),
            [
                Bar(MSIX_BAR, BarKind.MEMORY_32, BAR_SIZE),
                Bar(STRUCTURES_BAR, BarKind.MEMORY_64, STRUCTURES_SIZE, prefetchable=True),
            ],
            interrupt_pin=1,
            irq=around.irq,
            bar_changed=around.bar_changed,
            on_reset=self._function_reset,
        )  # fmt: skip
        vectors = len(device.queue_limits) + 1
        self.msix = Msix(self.function, vectors, MSIX_BAR, around.send)
        self._add_capabilities()
        FunctionReset(self.function)
        queues = [Queue(self._guest_memory, i, n) for i, n in enumerate(device.queue_limits)]
        self.common = CommonConfig(device, queues, vectors, self._reset)
        device.connect(self, queues)

    def bar(self, index: int) -> "Msix | VirtioPci":
        """Return what answers in BAR `index`."""
        return self.msix if index == MSIX_BAR else self

    def bells(self, index: int) -> list[tuple[int, int, int]]:
        """Return the doorbells in BAR `index`: offset, bytes of a write, eventfd."""
        if index != STRUCTURES_BAR:
            return []
        bells = self.device.doorbells
        return [(NOTIFY + NOTIFY_MULTIPLIER * i, NOTIFY_SIZE, fd) for i, fd in enumerate(bells)]

    # --- the bus: BAR 4

    def read(self, offset: int, size: int) -> int:
        """Return `size` bytes at `offset` of the structures."""
        page, at = offset & ~(_PAGE - 1), offset & _PAGE - 1
        if page == COMMON:
            return self.common.read(at, size)
        if page == ISR and at == 0:
            value, self._isr = self._isr, 0
            self._drive()
            return value
        if page == DEVICE:
            data = self.device.read_config()[at : at + size]
            return int.from_bytes(data, "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes at `offset` of the structures."""
        page, at = offset & ~(_PAGE - 1), offset & _PAGE - 1
        if page == COMMON:
            self.common.write(at, size, value)
        elif page == DEVICE:
            if at + size <= len(self.device.read_config()):
                self.device.write_config(at, value.to_bytes(size, "little"))
        elif page == NOTIFY:
            queue = at // NOTIFY_MULTIPLIER
            if queue < len(self.device.doorbells):
                os.eventfd_write(self.device.doorbells[queue], 1)

    # --- for the device

    def interrupt(self, queue: int) -> None:
        """Interrupt the driver for `queue`."""
        self._signal(self.common.queue_vectors[queue], ISR_QUEUE)

    def config_changed(self) -> None:
        """Tell the driver that the configuration has changed."""
        self.common.generation = self.common.generation + 1 & 0xFF
        self._signal(self.common.config_vector, ISR_CONFIG)

    def needs_reset(self, why: str) -> None:
        """Set DEVICE_NEEDS_RESET and tell the driver and the user."""
        self._complaints += 1
        if self._complaints <= COMPLAINTS:
            last = "; no more of this is shown" if self._complaints == COMPLAINTS else ""
            self._around.complain(f"{why}; the guest has to reset the device{last}")
        if self.common.needs_reset():
            self.config_changed()

    def later(self, call: Callable[[], None]) -> None:
        """Let the guest's thread call `call`."""
        self._around.post(call)

    def drop_code(self, address: int, size: int) -> None:
        """Drop the translations of guest physical memory; only on the guest's thread."""
        self._around.drop_code(address, size)

    def has_code(self, address: int, size: int) -> bool:
        """Return whether guest physical memory has code (`GuestMemory.has_code`)."""
        return self._guest_memory.has_code(address, size)

    def discard(self, address: int, size: int) -> None:
        """Give pages of guest physical memory to the host (`GuestMemory.discard`)."""
        self._guest_memory.discard(address, size)

    def close(self) -> None:
        """End the device."""
        self.device.close()

    def forget_memory(self) -> None:
        """Let go of the guest's memory, after `close`."""
        self._around = replace(self._around, memory=None)
        self.common.forget_queues()
        self.device.forget_queues()

    # --- inside

    @property
    def _guest_memory(self) -> GuestMemory:
        memory = self._around.memory
        if memory is None:
            raise InternalError("a device uses the memory of a machine that was taken apart", {})
        return memory

    def _signal(self, vector: int, bit: int) -> None:
        if self.msix.enabled:
            self.msix.trigger(vector)
            return
        with self._raising:
            waits = self._raised
            self._raised |= bit
        if not waits:
            self._around.post(self._raise)

    def _raise(self) -> None:
        with self._raising:
            bits, self._raised = self._raised, 0
        self._isr |= bits
        self._drive()

    def _drive(self) -> None:
        self.function.set_interrupt(self._isr != 0)

    def _reset(self) -> None:
        with self._raising:
            self._isr = self._raised = 0
        self._drive()

    def _function_reset(self) -> None:
        self.common.reset()

    def _add_capabilities(self) -> None:
        notify = NOTIFY_MULTIPLIER.to_bytes(4, "little")
        for kind, offset, tail in (
            (_COMMON_CFG, COMMON, b""),
            (_ISR_CFG, ISR, b""),
            (_DEVICE_CFG, DEVICE, b""),
            (_NOTIFY_CFG, NOTIFY, notify),
        ):
            body = bytearray(14) + tail
            body[0] = len(body) + 2
            body[1] = kind
            body[_CAP_BAR] = STRUCTURES_BAR
            body[_CAP_OFFSET : _CAP_OFFSET + 4] = offset.to_bytes(4, "little")
            body[_CAP_LENGTH : _CAP_LENGTH + 4] = _PAGE.to_bytes(4, "little")
            self.function.add_capability(_VENDOR_CAPABILITY, bytes(body))
        body = bytearray(18)
        body[0], body[1], body[_CAP_BAR] = len(body) + 2, _PCI_CFG, STRUCTURES_BAR
        writable = bytearray(18)
        writable[_CAP_BAR] = 0xFF
        writable[_CAP_OFFSET : _CAP_LENGTH + 4] = b"\xff" * 8
        writable[14:18] = b"\xff" * 4
        self._window = self.function.add_capability(
            _VENDOR_CAPABILITY, bytes(body), bytes(writable),
            before_read=self._read_window, after_write=self._write_window,
        )  # fmt: skip

    def _selected(self) -> tuple[int, int] | None:
        """Return offset and length of the access through VIRTIO_PCI_CAP_PCI_CFG (4.1.4.9)."""
        get, at = self.function.get_config, self._window + 2
        bar, offset, length = (
            get(at + _CAP_BAR, 1),
            get(at + _CAP_OFFSET, 4),
            get(at + _CAP_LENGTH, 4),
        )
        if bar != STRUCTURES_BAR or length not in {1, 2, 4} or offset % length:
            return None
        return (offset, length) if offset + length <= STRUCTURES_SIZE else None

    def _read_window(self, offset: int, size: int) -> None:
        selected = self._selected() if offset + size > _PCI_CFG_DATA else None
        if selected is not None:
            self.function.set_config(self._window + _PCI_CFG_DATA, 4, self.read(*selected))

    def _write_window(self, offset: int, size: int) -> None:
        selected = self._selected() if offset + size > _PCI_CFG_DATA else None
        if selected is not None:
            value = self.function.get_config(self._window + _PCI_CFG_DATA, selected[1])
            self.write(*selected, value)

    # --- state

    def save(self) -> VirtioPciState:
        """Return a copy of the state, on the guest's thread, after `device.pause`."""
        self._raise()
        return VirtioPciState(
            self.function.save(), self.msix.save(), self.common.save(), self._isr,
            self.device.save(),
        )  # fmt: skip

    def restore(self, state: VirtioPciState) -> None:
        """Restore `state`; the device was just made."""
        self.function.restore(state.function)
        self.msix.restore(state.msix)
        self._isr = state.isr
        self.device.restore(state.device)
        self.common.restore(state.common)
