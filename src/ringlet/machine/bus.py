"""The buses: 65,536 one-byte ports, and the guest physical addresses without RAM."""

from collections.abc import Callable

from ringlet.devices.wiring import PortDevice
from ringlet.errors import InternalError

PORTS = 0x10000

Read = Callable[[int, int], int]
Write = Callable[[int, int, int], None]


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

    def map(self, base: int, count: int, device: PortDevice, width: int = 1) -> None:
        """Map ports `base` to `base + count - 1` to `device`, which takes `width` bytes at once.

        Raises InternalError if a port is already mapped or does not exist.
        """
        if not 0 <= base < base + count <= PORTS:
            raise InternalError("no such ports", {"base": base, "count": count})
        for offset in range(count):
            port = base + offset
            if port in self._readers:
                raise InternalError("two devices at one port", {"port": port})
            limit = min(width, count - offset)
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


class MemoryBus:
    """Finds the device of a guest physical address.

    An access that runs past the end of its device, or hits no device, reads as all ones, and a
    write is lost.
    """

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int, PortDevice]] = []

    def map(self, base: int, size: int, device: PortDevice) -> None:
        """Map `size` bytes at `base` to `device`.  Where ranges overlap, the latest one answers."""
        self._ranges.insert(0, (base, base + size, device))

    def unmap(self, base: int, device: PortDevice) -> None:
        """Remove the range of `device` that begins at `base`."""
        self._ranges = [r for r in self._ranges if not (r[0] == base and r[2] is device)]

    def read(self, phys: int, size: int) -> int:
        """Return the value of `size` bytes at `phys`."""
        for start, end, device in self._ranges:
            if start <= phys and phys + size <= end:
                return device.read(phys - start, size)
        return (1 << 8 * size) - 1

    def write(self, phys: int, size: int, value: int) -> None:
        """Write `size` bytes of `value` at `phys`."""
        for start, end, device in self._ranges:
            if start <= phys and phys + size <= end:
                device.write(phys - start, size, value)
                return
