"""Plays a guest's driver for a virtio device on PCI, with rings in the memory of a real processor.

The test's thread is the guest's thread: it calls what a device has posted, in `Rig.post_all`.
"""

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.unit.vcpu.board import Board

from ringlet.devices.msix import ENABLE
from ringlet.devices.pci import BAR0, COMMAND, COMMAND_MASTER, COMMAND_MEMORY
from ringlet.devices.virtio import common
from ringlet.devices.virtio.device import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice
from ringlet.devices.virtio.pci import (
    COMMON,
    DEVICE,
    ISR,
    MSIX_BAR,
    NOTIFY,
    STRUCTURES_BAR,
    Surroundings,
    VirtioPci,
)

PATIENCE = 10.0
NEXT, WRITE, INDIRECT = 1, 2, 4
RINGS = 0x100000
BUFFERS = 0x200000
DESCRIPTOR = struct.Struct("<QIHH")
MESSAGE_ADDRESS = 0xFEE0_0000
Part = tuple[int, int]
"""Address and size of a buffer."""


def eventually(done: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Return whether `done` comes true in time."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)
    return True


class Rings:
    """A queue as the driver sees it, `size` entries at guest physical `base`."""

    def __init__(self, board: Board, base: int, size: int) -> None:
        self.board = board
        self.memory = board.p.guest_memory()
        self.size = size
        self.table = base
        self.avail = base + 16 * size
        self.used_ring = (self.avail + 6 + 2 * size + 3) & ~3
        self.end = self.used_ring + 6 + 8 * size
        self.available = 0
        self.seen = 0
        self.free = deque(range(size))
        self.lent: dict[int, list[int]] = {}
        self.view(base, self.end - base)[:] = bytes(self.end - base)

    def view(self, address: int, size: int) -> memoryview:
        return self.memory.view(address, size)

    def get16(self, address: int) -> int:
        return int.from_bytes(self.memory.read(address, 2), "little")

    def put16(self, address: int, value: int) -> None:
        self.view(address, 2)[:] = (value & 0xFFFF).to_bytes(2, "little")

    def describe(self, index: int, address: int, size: int, flags: int = 0, after: int = 0) -> None:
        """Write descriptor `index` of the table."""
        self.view(self.table + 16 * index, 16)[:] = DESCRIPTOR.pack(address, size, flags, after)

    def offer(self, head: int) -> None:
        """Make a chain available."""
        self.put16(self.avail + 4 + 2 * (self.available % self.size), head)
        self.available = self.available + 1 & 0xFFFF
        self.put16(self.avail + 2, self.available)

    def chain(self, readable: Sequence[Part] = (), writable: Sequence[Part] = ()) -> int:
        """Make a chain of these buffers available; return its head."""
        parts = [(part, 0) for part in readable] + [(part, WRITE) for part in writable]
        places = [self.free.popleft() for _ in parts]
        for i, ((address, size), flags) in enumerate(parts):
            last = i == len(parts) - 1
            self.describe(
                places[i], address, size, flags | (0 if last else NEXT),
                0 if last else places[i + 1],
            )  # fmt: skip
        self.lent[places[0]] = places
        self.offer(places[0])
        return places[0]

    def indirect(
        self, at: int, readable: Sequence[Part] = (), writable: Sequence[Part] = ()
    ) -> int:
        """Make a chain available whose descriptors are in a table at `at`."""
        parts = [(part, 0) for part in readable] + [(part, WRITE) for part in writable]
        table = b""
        for i, ((address, size), flags) in enumerate(parts):
            last = i == len(parts) - 1
            table += DESCRIPTOR.pack(address, size, flags | (0 if last else NEXT), i + 1)
        self.view(at, len(table))[:] = table
        head = self.free.popleft()
        self.describe(head, at, len(table), INDIRECT)
        self.lent[head] = [head]
        self.offer(head)
        return head

    def used(self) -> list[tuple[int, int]]:
        """Return the chains that came back since the last call: heads and bytes written."""
        found = []
        while self.seen != self.get16(self.used_ring + 2):
            entry = self.used_ring + 4 + 8 * (self.seen % self.size)
            head, written = struct.unpack("<II", self.memory.read(entry, 8))
            self.free.extend(self.lent.pop(head, []))
            found.append((head, written))
            self.seen = self.seen + 1 & 0xFFFF
        return found

    def waits(self) -> int:
        """Return how many chains came back and were not seen yet."""
        return self.get16(self.used_ring + 2) - self.seen & 0xFFFF


@dataclass
class Rig:
    """A device in a machine of its own, and what it did to the machine."""

    device: VirtioDevice
    board: Board = field(default_factory=Board)
    messages: list[tuple[int, int]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    dropped: list[Part] = field(default_factory=list)
    posted: deque[Callable[[], None]] = field(default_factory=deque)
    levels: list[bool] = field(default_factory=list)
    moves: list[tuple[int, int | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = self.board.p.guest_memory()
        self.rings: dict[int, Rings] = {}
        self.pci = VirtioPci(
            self.device,
            Surroundings(
                memory=self.memory,
                send=lambda address, data: self.messages.append((address, data)),
                irq=self.levels.append,
                bar_changed=lambda function, bar, address: self.moves.append((bar.index, address)),
                post=self.posted.append,
                drop_code=self._drop,
                complain=self.complaints.append,
            ),
        )
        self._next_buffer = BUFFERS
        self._next_ring = RINGS

    def _drop(self, address: int, size: int) -> None:
        self.dropped.append((address, size))
        self.board.p.drop_code(address, size)

    # --- registers

    def get(self, register: int, size: int, page: int = COMMON) -> int:
        return self.pci.read(page + register, size)

    def set(self, register: int, size: int, value: int, page: int = COMMON) -> None:
        self.pci.write(page + register, size, value)

    @property
    def status(self) -> int:
        return self.get(common.STATUS, 1)

    @property
    def needs_reset(self) -> bool:
        return bool(self.status & common.NEEDS_RESET)

    def config(self, offset: int, size: int) -> int:
        return self.get(offset, size, DEVICE)

    def offered(self) -> int:
        value = 0
        for half in (0, 1):
            self.set(common.FEATURE_SELECT, 4, half)
            value |= self.get(common.FEATURE, 4) << 32 * half
        return value

    # --- the driver's way to DRIVER_OK (3.1.1)

    def enable_function(self, *, messages: bool = True) -> None:
        """Let the function answer and, with `messages`, use MSI-X: entry n sends data n."""
        function = self.pci.function
        function.write_config(BAR0 + 4 * MSIX_BAR, 4, 0xC000_0000)
        function.write_config(BAR0 + 4 * STRUCTURES_BAR, 4, 0xC001_0000)
        function.write_config(COMMAND, 2, COMMAND_MEMORY | COMMAND_MASTER)
        if not messages:
            return
        offset = function.read_config(0x34, 1)
        while function.read_config(offset, 1) != 0x11:
            offset = function.read_config(offset + 1, 1)
        function.write_config(offset + 2, 2, ENABLE)
        for n in range(len(self.device.queue_limits) + 1):
            for word, value in enumerate((MESSAGE_ADDRESS, 0, n, 0)):
                self.pci.msix.write(16 * n + 4 * word, 4, value)

    def negotiate(self, features: int | None = None) -> None:
        """Go up to FEATURES_OK; without `features`, with all that are offered."""
        self.set(common.STATUS, 1, 0)
        self.set(common.STATUS, 1, common.ACKNOWLEDGE)
        self.set(common.STATUS, 1, common.ACKNOWLEDGE | common.DRIVER)
        wanted = self.offered() if features is None else features
        for half in (0, 1):
            self.set(common.DRIVER_FEATURE_SELECT, 4, half)
            self.set(common.DRIVER_FEATURE, 4, wanted >> 32 * half & 0xFFFF_FFFF)
        self.set(common.STATUS, 1, common.ACKNOWLEDGE | common.DRIVER | common.FEATURES_OK)

    def set_up(self, index: int, size: int = 16, vector: int | None = None) -> Rings:
        """Set up and enable a queue; its vector is its index plus one."""
        rings = Rings(self.board, self._next_ring, size)
        self._next_ring = (rings.end + 0xFFF) & ~0xFFF
        self.rings[index] = rings
        self.set(common.QUEUE_SELECT, 2, index)
        self.set(common.QUEUE_SIZE, 2, size)
        self.set(common.QUEUE_VECTOR, 2, index + 1 if vector is None else vector)
        for register, address in (
            (common.QUEUE_DESC, rings.table),
            (common.QUEUE_DRIVER, rings.avail),
            (common.QUEUE_DEVICE, rings.used_ring),
        ):
            self.set(register, 4, address & 0xFFFF_FFFF)
            self.set(register + 4, 4, address >> 32)
        self.set(common.QUEUE_ENABLE, 2, 1)
        return rings

    def driver_ok(self) -> None:
        self.set(common.STATUS, 1, self.status | common.DRIVER_OK)

    def start(self, features: int | None = None, *, size: int = 16, messages: bool = True) -> None:
        """Do all of it, for all queues."""
        self.enable_function(messages=messages)
        self.negotiate(features)
        for index, limit in enumerate(self.device.queue_limits):
            self.set_up(index, min(size, limit))
        self.driver_ok()

    # --- traffic

    def ring(self, index: int = 0) -> None:
        """Notify the device of a queue."""
        self.set(4 * index, 2, index, NOTIFY)

    def buffer(self, content: bytes | int) -> Part:
        """Return a buffer with `content`, or of so many zeros."""
        data = bytes(content) if isinstance(content, int) else content
        at = self._next_buffer
        self._next_buffer += len(data) + 15 & ~15
        assert self._next_buffer <= 4 << 20, "the test uses more memory than there is"
        self.memory.view(at, len(data))[:] = data
        return at, len(data)

    def send(
        self,
        index: int,
        readable: Sequence[bytes | int] = (),
        writable: Sequence[int] = (),
    ) -> tuple[int, list[Part]]:
        """Make a chain available and notify; return its head and its writable buffers."""
        room = [self.buffer(size) for size in writable]
        head = self.rings[index].chain([self.buffer(data) for data in readable], room)
        self.ring(index)
        return head, room

    def post_all(self) -> None:
        """Call what was posted to the guest's thread."""
        while self.posted:
            self.posted.popleft()()

    def came_back(self, index: int = 0, count: int = 1) -> list[tuple[int, int]]:
        """Wait until `count` chains came back, and return them."""
        rings = self.rings[index]

        def enough() -> bool:
            self.post_all()
            return rings.waits() >= count

        assert eventually(enough), f"{rings.waits()} of {count} chains came back"
        return rings.used()

    def at_rest(self) -> None:
        """Return when the device's thread has handled all notifications until now."""
        for _ in range(2):  # a notification may cause another
            done = threading.Event()
            self.device.worker.call(done.set)
            assert done.wait(PATIENCE)

    def read(self, part: Part, size: int | None = None) -> bytes:
        return self.memory.read(part[0], part[1] if size is None else size)

    def pin(self) -> bool:
        """Return the level of INTA#."""
        return self.levels[-1]

    def isr(self) -> int:
        return self.get(0, 1, ISR)


PLAIN = F_VERSION_1
EVENTS = F_VERSION_1 | F_EVENT_IDX
TABLES = F_VERSION_1 | F_INDIRECT_DESC
