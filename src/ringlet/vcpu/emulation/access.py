"""How an emulated instruction reaches devices, and what every family of them has in common."""

from collections.abc import Generator
from typing import NamedTuple, Protocol

from ringlet.vcpu.emulation.native import Native
from ringlet.vcpu.emulation.operand import Operand


class Access(NamedTuple):
    """One access to a device: 1, 2, 4 or 8 naturally aligned bytes of guest physical memory.

    Whoever drives the emulation answers a read with its value; `data` is a write's.
    """

    phys: int
    size: int
    write: bool
    data: int


Accesses = Generator[Access, int, bool]
"""An instruction on its way.

It returns True when it is done, or, repeated and interrupted, has done some of its repetitions.
False: the guest's exception is set, and nothing architectural has changed but what the
instruction's manual says (the lanes that a gather has completed, the repetitions of a string).
"""


class Step(Protocol):
    """A decoded instruction, ready to be performed any number of times."""

    def run(self, native: Native) -> Accesses: ...


def read(native: Native, operand: Operand, at: int) -> Generator[Access, int, None]:
    """Bring a resolved operand to `at` in the bounce area."""
    native.load(operand, at)
    for phys, offset, size in operand.units():
        value = yield Access(phys, size, False, 0)
        native.poke(at + offset, value & (1 << 8 * size) - 1, size)


def write(native: Native, operand: Operand, at: int) -> Generator[Access, int, None]:
    """Send the bytes at `at` in the bounce area to where an operand resolved for writing is."""
    native.store(operand, at)
    for phys, offset, size in operand.units():
        yield Access(phys, size, True, native.peek(at + offset, size))
