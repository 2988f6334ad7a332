"""Formats the last events of a guest: the blocks that it ran, its exceptions and its interrupts.

Each event is a line, the oldest first:

    block 0 ffffffff81000040 rsp ffffffff82803fd0 cr3 2a10000
    exception 0 ffffffff8107a2c1 #GP(0000) cr2 0
    interrupt 3 401136 vector ec

The number is the CPL.  RIP follows: the address of the block's first instruction, of the
instruction that raised the exception, or of the next instruction when the interrupt came.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from ringlet.arch.vectors import describe
from ringlet.vcpu.debug.blocks import Event

LENGTH: Final = 1 << 17
"""The number of events that are kept."""


def lines(events: Iterable[tuple[int, int, int, int, int]]) -> Iterator[str]:
    """Yield a line for each of the `Processor.events`."""
    for kind, cpl, rip, first, second in events:
        match Event(kind):
            case Event.BLOCK:
                rest = f"rsp {first:x} cr3 {second:x}"
            case Event.EXCEPTION:
                rest = f"{describe(first & 0xFFFFFFFF, first >> 32)} cr2 {second:x}"
            case Event.INTERRUPT:
                rest = f"vector {first:x}"
        yield f"{Event(kind).name.lower()} {cpl} {rip:x} {rest}"
