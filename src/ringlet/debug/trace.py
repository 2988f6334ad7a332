"""Formats the last events of a guest: the blocks that it ran, its exceptions and its interrupts.

Each event is a line, the oldest first:

    block 0 ffffffff81000040 rsp ffffffff82803fd0 cr3 2a10000: mov rdi,rsi
    exception 0 ffffffff8107a2c1 #GP(0000) cr2 0
    interrupt 3 401136 vector ec
    block 0 07c0:0005 7c05 sp fffe cr3 0: mov ds,ax

The number is the CPL.  RIP follows: the address of the block's first instruction, of the
instruction that raised the exception, or of the next instruction when the interrupt came.  Outside
64-bit mode there are CS and EIP, or IP in 16-bit code, and then the linear address.  A block's line
ends with its first instruction as it was then.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from iced_x86 import Decoder, Formatter, FormatterSyntax

from ringlet.arch.vectors import describe
from ringlet.vcpu.debug.blocks import Event, EventRecord

LENGTH: Final = 1 << 17
"""The number of events that are kept."""
_STACK_POINTERS: Final = {16: "sp", 32: "esp", 64: "rsp"}
_LONGEST: Final = 15


def lines(events: Iterable[EventRecord]) -> Iterator[str]:
    """Yield a line for each of the `Processor.events`."""
    formatter = Formatter(FormatterSyntax.NASM)
    for event in events:
        match Event(event.kind):
            case Event.BLOCK:
                rest = f"{_STACK_POINTERS[event.bits]} {event.first:x} cr3 {event.second:x}"
                if event.code:
                    rest += f": {_instruction(formatter, event)}"
            case Event.EXCEPTION:
                what = describe(event.first & 0xFFFFFFFF, event.first >> 32)
                rest = f"{what} cr2 {event.second:x}"
            case Event.INTERRUPT:
                rest = f"vector {event.first:x}"
        yield f"{Event(event.kind).name.lower()} {event.cpl} {_place(event)} {rest}"


def _place(event: EventRecord) -> str:
    if event.bits == 64:
        return f"{event.rip:x}"
    return f"{event.cs:04x}:{event.rip:0{event.bits // 4}x} {event.linear:x}"


def _instruction(formatter: Formatter, event: EventRecord) -> str:
    # Targets of branches are offsets in CS, as EIP is.
    decoded = Decoder(event.bits, event.code[:_LONGEST], ip=event.rip).decode()
    return "(bad)" if decoded.is_invalid else str(formatter.format(decoded))
