"""The memory balloon device (virtio 1.2, 5.5): guest memory that is not used returns to the host.

The guest gives pages to the balloon until it has the size that the host asks for, and reports
pages that are free anyway.  Either way they become holes in RAM's file, so they take no memory of
the host until the guest uses them again.

Translations of such a page are dropped on the guest's thread before the page becomes a hole.  Any
other page is punched on the device's thread; if the guest has run it meanwhile, it is a page whose
code has changed, and what was translated from it is dropped as after any write of a device.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from ringlet.devices.virtio.buffers import gather
from ringlet.devices.virtio.device import VirtioDevice
from ringlet.devices.virtio.queue import Chain, Queue

PAGE: Final = 4096
"""The unit of the balloon, whatever the guest's pages are (5.5.6)."""
F_STATS_VQ: Final = 1 << 1
F_DEFLATE_ON_OOM: Final = 1 << 2
F_PAGE_REPORTING: Final = 1 << 5

PAGES_MAX: Final = 1024
"""The most pages that one chain gives; Linux gives 256."""
_STATS_MAX: Final = 64

# Queues.  Free page hints are not offered; without them the reporting queue is 4 in the
# specification, and 3 for drivers that leave no gap, as those of Linux.
_INFLATE, _DEFLATE, _STATS = 0, 1, 2
_LIMITS: Final = (128, 128, 16, 32, 32)

_CONFIG: Final = struct.Struct("<IIII")
_ACTUAL: Final = 4  # its offset
_STAT: Final = struct.Struct("<HQ")
STATS: Final = (
    "swap_in", "swap_out", "major_faults", "minor_faults", "free", "total", "available", "caches",
    "hugetlb_allocations", "hugetlb_failures",
)  # fmt: skip
"""Names of the statistics by their tags (5.5.6.3)."""

Range = tuple[int, int]
"""Guest physical address and size, whole pages."""


@dataclass(slots=True)
class BalloonState:
    """Sizes of the balloon in pages: the one wanted, and the one that the guest tells."""

    wanted: int
    actual: int


class Balloon(VirtioDevice):
    """The device; the balloon is empty until `resize`."""

    kind: ClassVar[int] = 5
    class_code: ClassVar[int] = 0x05_00_00

    def __init__(self, failed: Callable[[Exception], None], name: str = "balloon") -> None:
        super().__init__(name, _LIMITS, failed)
        self.features = F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_REPORTING
        self._wanted = 0
        self._actual = bytearray(4)
        self._stats: Chain | None = None  # the driver's buffer, kept until news are wanted
        self.statistics: dict[str, int] = {}

    # --- for the host; any thread

    def resize(self, size: int) -> None:
        """Ask the guest to give up `size` bytes of its memory, rounded down to whole pages."""
        self._wanted = min(size // PAGE, 0xFFFF_FFFF)
        if self.running:
            self.transport.config_changed()

    @property
    def size(self) -> int:
        """How many bytes the guest has given up, as it says."""
        return PAGE * int.from_bytes(self._actual, "little")

    def ask(self) -> None:
        """Ask the guest for new `statistics`, which come soon if its driver gives any."""
        self.worker.call(self._return_stats)

    # --- for the transport

    def read_config(self) -> bytes:
        """Return virtio_balloon_config (5.5.4)."""
        return _CONFIG.pack(self._wanted, int.from_bytes(self._actual, "little"), 0, 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """Take the size that the guest tells."""
        for place, byte in enumerate(data, offset - _ACTUAL):
            if 0 <= place < len(self._actual):
                self._actual[place] = byte

    def paused(self) -> None:
        """Put the buffer of statistics back."""
        if self._stats is not None:
            self.put_back(self.queues[_STATS])
            self._stats = None

    def stopped(self) -> None:
        """Forget the driver: its balloon is empty."""
        self._stats = None
        self._actual[:] = bytes(4)

    def save(self) -> BalloonState:
        """Return a copy of the state."""
        return BalloonState(self._wanted, int.from_bytes(self._actual, "little"))

    def restore(self, state: object) -> None:
        """Restore `state`."""
        assert isinstance(state, BalloonState)
        self._wanted = state.wanted
        self._actual[:] = state.actual.to_bytes(4, "little")

    # --- chains

    def serve(self, queue: Queue, chain: Chain) -> None:
        """Handle pages or statistics."""
        if queue.index == _STATS:
            self._hear_stats(queue, chain)
        elif queue.index == _DEFLATE:
            self.give(queue, chain, 0)  # the guest may use them without a word
        elif queue.index == _INFLATE:
            numbers, rest = gather(chain.readable, 4 * PAGES_MAX)
            if rest or len(numbers) % 4:
                self.fail(f"{chain.readable_size} bytes of page numbers")
                return
            self._discard(queue, chain, _runs(n for (n,) in struct.iter_unpack("<I", numbers)))
        else:
            self._discard(queue, chain, _whole_pages(chain.places))

    def _discard(self, queue: Queue, chain: Chain, ranges: Iterable[Range]) -> None:
        code = []
        for address, size in ranges:
            if self.transport.has_code(address, size):
                code.append((address, size))
                continue
            self._punch(address, size)
            if self.transport.has_code(address, size):
                code.append((address, size))
        self.give_after(queue, chain, 0, partial(self._drop_and_punch, code) if code else None)
        self.tell(queue)

    def _drop_and_punch(self, ranges: list[Range]) -> None:
        """Discard pages with code, on the guest's thread."""
        self.counters.add("code_written")
        for address, size in ranges:
            self.transport.drop_code(address, size)
            self._punch(address, size)

    def _punch(self, address: int, size: int) -> None:
        try:
            self.transport.discard(address, size)
        except ValueError:
            self.counters.add("not_ram")
        except OSError:
            self.counters.add("errors")
        else:
            self.counters.add("bytes", size)

    def _hear_stats(self, queue: Queue, chain: Chain) -> None:
        self._return_stats()  # a driver has only one
        self._stats = chain
        data, _ = gather(chain.readable, _STAT.size * _STATS_MAX)
        whole = data[: len(data) // _STAT.size * _STAT.size]
        told = {STATS[tag]: n for tag, n in _STAT.iter_unpack(whole) if tag < len(STATS)}
        self.statistics = self.statistics | told

    def _return_stats(self) -> None:
        chain, self._stats = self._stats, None
        if chain is not None and self.running:
            self.give(self.queues[_STATS], chain, 0)


def _runs(numbers: Iterable[int]) -> Iterator[Range]:
    """Return the ranges of the pages with these numbers, which the guest chose."""
    start = end = None
    for number in sorted(set(numbers)):
        if number != end:
            if start is not None and end is not None:
                yield start * PAGE, (end - start) * PAGE
            start = number
        end = number + 1
    if start is not None and end is not None:
        yield start * PAGE, (end - start) * PAGE


def _whole_pages(buffers: Iterable[Range]) -> Iterator[Range]:
    """Return the whole pages in each of the buffers."""
    for address, size in buffers:
        start = -(-address // PAGE) * PAGE
        end = (address + size) // PAGE * PAGE
        if start < end:
            yield start, end - start
