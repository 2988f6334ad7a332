"""The buses: 65,536 one-byte ports, and the guest physical addresses without RAM."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Final, NamedTuple

from ringlet.devices.wiring import PortDevice
from ringlet.errors import InternalError

PORTS = 0x10000

Read = Callable[[int, int], int]
Write = Callable[[int, int, int], None]


REMEMBERED: Final = 4096
"""Addresses whose device the memory bus remembers."""


class _Ports(NamedTuple):
    """A range of `size` ports; the device takes at most `width` bytes in one access."""

    base: int
    size: int
    device: PortDevice
    width: int


class PortBus:
    """Finds the device of a port by one dictionary lookup.

    An access wider than the device's width, or one that runs past its last port, is split into
    bytes for consecutive ports, as on an ISA bus.  An unmapped port reads as all ones, and a write
    to it is lost.
    """

    def __init__(self) -> None:
        # port -> (bound method, offset in the device, most bytes in one access at this port)
        self._readers: dict[int, tuple[Read, int, int]] = {}
        self._writers: dict[int, tuple[Write, int, int]] = {}
        self._ranges: list[_Ports] = []

    def map(
        self, base: int, count: int, device: PortDevice, width: int = 1, *, over: bool = False
    ) -> None:
        """Map ports `base` to `base + count - 1` to `device`, which takes `width` bytes at once.

        With `over`, for ranges that the guest moves, other devices may have some of the ports; the
        latest range answers.  Otherwise InternalError is raised if a port is already mapped, and
        in any case if a port does not exist.
        """
        if not 0 <= base < base + count <= PORTS:
            raise InternalError("no such ports", {"base": base, "count": count})
        for port in range(base, base + count):
            if port in self._readers and not over:
                raise InternalError("two devices at one port", {"port": port})
        self._ranges.append(_Ports(base, count, device, width))
        self._fill(base, base + count, self._ranges[-1:])

    def unmap(self, base: int, device: PortDevice) -> None:
        """Remove the range of `device` that begins at port `base`; what it hid answers again."""
        gone = [r for r in self._ranges if r.base == base and r.device is device]
        self._ranges = [r for r in self._ranges if not (r.base == base and r.device is device)]
        for ports in gone:
            end = base + ports.size
            for port in range(base, end):
                self._readers.pop(port, None)
                self._writers.pop(port, None)
            self._fill(base, end, self._ranges)

    def _fill(self, first: int, end: int, ranges: list[_Ports]) -> None:
        """Let `ranges`, the latest one last, answer at the ports from `first` to `end`."""
        for base, size, device, width in ranges:
            for port in range(max(first, base), min(end, base + size)):
                offset = port - base
                limit = min(width, size - offset)
                self._readers[port] = (device.read, offset, limit)
                self._writers[port] = (device.write, offset, limit)

    def read(self, port: int, size: int) -> int:
        """Return the value of `size` bytes at `port`."""
        if port in self._readers:
            read, offset, limit = self._readers[port]
            if size <= limit:
                return read(offset, size)
        elif size == 1:
            return 0xFF
        value = 0
        for i in range(size):
            value |= self.read((port + i) & 0xFFFF, 1) << 8 * i
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """Write `size` bytes of `value` at `port`."""
        if port in self._writers:
            write, offset, limit = self._writers[port]
            if size <= limit:
                write(offset, size, value)
                return
        elif size == 1:
            return
        for i in range(size):
            self.write((port + i) & 0xFFFF, 1, value >> 8 * i & 0xFF)


class _Range(NamedTuple):
    """Guest physical addresses from `base` to before `end`."""

    base: int
    end: int
    device: PortDevice


class _Nothing:
    """Answers where there is no device."""

    def read(self, offset: int, size: int) -> int:
        del offset
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Lose the value."""


_NOWHERE: Final = _Range(0, 1 << 65, _Nothing())


class MemoryBus:
    """Finds the device of a guest physical address, usually by one dictionary lookup.

    An access that runs past the end of its device, or hits no device, reads as all ones, and a
    write is lost.  The device at an access's first byte gets the access.

    A guest may move ranges to any address.  The cost of that depends on the number of ranges, and
    never on their sizes.
    """

    def __init__(self) -> None:
        self._ranges: list[_Range] = []  # the latest one last
        # Addresses from `_starts[i]` to before `_starts[i + 1]` have the device of `_owners[i]`.
        self._starts: list[int] = [0]
        self._owners: list[_Range] = [_NOWHERE]
        # address -> (bound methods, offset in the device, bytes from there to its end)
        self._found: dict[int, tuple[Read, Write, int, int]] = {}

    def map(self, base: int, size: int, device: PortDevice) -> None:
        """Map `size` bytes at `base` to `device`.  Where ranges overlap, the latest one answers.

        Raises InternalError if there are no such addresses.
        """
        if not 0 <= base < base + size:
            raise InternalError("no such addresses", {"base": base, "size": size})
        self._ranges.append(_Range(base, base + size, device))
        self._place(self._ranges[-1])

    def unmap(self, base: int, device: PortDevice) -> None:
        """Remove the range of `device` that begins at `base`; what it hid answers again."""
        self._ranges = [r for r in self._ranges if not (r.base == base and r.device is device)]
        self._starts, self._owners = [0], [_NOWHERE]
        self._found.clear()
        for placed in self._ranges:
            self._place(placed)

    def read(self, phys: int, size: int) -> int:
        """Return the value of `size` bytes at `phys`."""
        read, _, offset, room = self._found.get(phys) or self._find(phys)
        return read(offset, size) if size <= room else (1 << 8 * size) - 1

    def write(self, phys: int, size: int, value: int) -> None:
        """Write `size` bytes of `value` at `phys`."""
        _, write, offset, room = self._found.get(phys) or self._find(phys)
        if size <= room:
            write(offset, size, value)

    def _place(self, placed: _Range) -> None:
        """Make `placed` the owner of its addresses."""
        first = bisect_left(self._starts, placed.base)
        last = bisect_right(self._starts, placed.end) - 1  # what begins at or goes on after its end
        self._owners[first : last + 1] = [placed, self._owners[last]]
        self._starts[first : last + 1] = [placed.base, placed.end]
        self._found.clear()

    def _find(self, phys: int) -> tuple[Read, Write, int, int]:
        """Find the device of `phys` among all ranges, and remember it."""
        base, end, device = self._owners[bisect_right(self._starts, phys) - 1]
        found = (device.read, device.write, phys - base, end - phys)
        if len(self._found) >= REMEMBERED:
            self._found.clear()
        self._found[phys] = found
        return found
