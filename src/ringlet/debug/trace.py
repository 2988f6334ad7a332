"""The last events of a guest, as text: what it ran, and what came in between.

A line each, the oldest first:

    block 0 ffffffff81000040 rsp ffffffff82803fd0 cr3 2a10000
    exception 0 ffffffff8107a2c1 #GP(0000) cr2 0
    interrupt 3 401136 vector ec

The number is the CPL, then comes RIP: of a block's first instruction, of the instruction that
raised the exception, and of the one that is next when the interrupt comes.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from ringlet.arch.vectors import describe
from ringlet.vcpu.blocks import Event

LENGTH: Final = 1 << 17
"""How many events are kept."""


def lines(events: Iterable[tuple[int, int, int, int, int]]) -> Iterator[str]:
    """Yield the text of `Processor.events`."""
    for kind, cpl, rip, first, second in events:
        match Event(kind):
            case Event.BLOCK:
                rest = f"rsp {first:x} cr3 {second:x}"
            case Event.EXCEPTION:
                rest = f"{describe(first & 0xFFFFFFFF, first >> 32)} cr2 {second:x}"
            case Event.INTERRUPT:
                rest = f"vector {first:x}"
        yield f"{Event(kind).name.lower()} {cpl} {rip:x} {rest}"
