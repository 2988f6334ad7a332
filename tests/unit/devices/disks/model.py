"""A disk as an array of bytes, and sequences of operations to compare with it."""

import os
from dataclasses import dataclass
from typing import Self

from hypothesis import strategies as st
from tests.unit.devices.disks.driver import Driver, split

from ringlet.devices.backends.disks import Operation

SECTOR = 512


@dataclass
class Model:
    """What the disk must read as."""

    data: bytearray

    @dataclass(frozen=True)
    class Step:
        """One operation on sectors `start` to `start + count`, reduced to the size of the disk."""

        operation: Operation
        start: int
        count: int
        fill: int
        unmap: bool

    @classmethod
    def filled(cls, size: int) -> Self:
        sectors = range(size // SECTOR)
        return cls(bytearray(b"".join(bytes([n % 251 + 1]) * SECTOR for n in sectors)))

    def check(self, disk: Driver, steps: list[Step]) -> None:
        """Perform `steps` one after the other, and compare all that is read."""
        sectors = len(self.data) // SECTOR
        for step in steps:
            start = step.start % sectors
            begin, end = start * SECTOR, min(start + step.count, sectors) * SECTOR
            length = end - begin
            match step.operation:
                case Operation.READ:
                    assert disk.read(begin, length, parts=1 + step.fill % 3) == self.data[begin:end]
                case Operation.WRITE:
                    data = bytes([step.fill]) * length
                    assert disk.write(begin, data, parts=1 + step.fill % 3, fua=step.unmap) == 0
                    self.data[begin:end] = data
                case Operation.FLUSH:
                    assert disk.flush() == 0
                case Operation.WRITE_ZEROES:
                    assert disk.write_zeros(begin, length, unmap=step.unmap) == 0
                    self.data[begin:end] = bytes(length)
                case Operation.DISCARD:
                    assert disk.discard(begin, length) == 0
                    self.data[begin:end] = disk.read(begin, length)  # any bytes, but the same later
        assert disk.read(0, len(self.data)) == self.data


STEPS = st.lists(
    st.builds(
        Model.Step,
        st.sampled_from(Operation),
        st.integers(0, 1 << 20),
        st.integers(1, 48),
        st.integers(0, 255),
        st.booleans(),
    ),
    max_size=24,
)


def storm(disk: Driver, size: int, rounds: int = 24, unit: int = SECTOR) -> None:
    """Write all of the disk in small pieces that are under way together, and compare."""
    for _ in range(rounds):
        data = os.urandom(size)
        ended = [
            disk.begin(Operation.WRITE, at, unit, split(bytearray(data[at : at + unit]), 2))
            for at in range(0, size, unit)
        ]
        assert {one.wait() for one in ended} == {0}
        assert disk.read(0, size) == data
