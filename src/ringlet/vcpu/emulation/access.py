"""Device accesses of emulated instructions, and the interface that all their families share."""

from collections.abc import Generator
from typing import NamedTuple, Protocol

from ringlet.vcpu.emulation.native import Native
from ringlet.vcpu.emulation.operand import Operand


class Access(NamedTuple):
    """One access to a device: 1, 2, 4 or 8 naturally aligned bytes of guest physical memory.

    The caller of the emulation sends the value of a read; `data` is the value of a write.
    """

    phys: int
    size: int
    write: bool
    data: int


Accesses = Generator[Access, int, bool]
"""An instruction in execution.

It returns True when it is done, or when an event interrupts it after some of its repetitions.
False: the guest's exception is set, and the architectural state has changed only where the manual
says so (the lanes that a gather has loaded, the repetitions of a string instruction).
"""


class Step(Protocol):
    """A decoded instruction, ready to be performed any number of times."""

    def run(self, native: Native) -> Accesses: ...


def read(native: Native, operand: Operand, at: int) -> Generator[Access, int, None]:
    """Read a resolved operand into the bounce area at `at`."""
    native.load(operand, at)
    for phys, offset, size in operand.units():
        value = yield Access(phys, size, False, 0)
        native.poke(at + offset, value & (1 << 8 * size) - 1, size)


def write(native: Native, operand: Operand, at: int) -> Generator[Access, int, None]:
    """Write the bytes at `at` in the bounce area to an operand that was resolved for writing."""
    native.store(operand, at)
    for phys, offset, size in operand.units():
        yield Access(phys, size, True, native.peek(at + offset, size))
