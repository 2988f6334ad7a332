"""Tells what led to a guest's end, for its message."""

from enum import IntEnum
from typing import Final

from ringlet.arch.vectors import describe
from ringlet.machine.place import Cpu

_PAGE_FAULT: Final = 14


class Source(IntEnum):
    """Where an event comes from, as in ringlet.vcpu.loop.gates."""

    FROM_PROCESSOR = 0
    FROM_SOFTWARE = 1
    FROM_OUTSIDE = 2


def shutdown(cpu: Cpu) -> str:
    """Return such a text as "#UD; its delivery raised #GP(0033), #DF(0000) and #GP(0043)".

    That is the last event, and each exception arose in the delivery of the one before.  A shutdown
    follows one in the delivery of #DF (SDM 3A 6.15).  The text is empty if nothing is known.
    """
    events = [_event(cpu, f"raised{number}") for number in range(cpu.get("raised_count"))]
    if len(events) < 2:
        return "".join(events)
    first, *others, last = events
    raised = f"{', '.join(others)} and {last}" if others else last
    return f"{first}; its delivery raised {raised}"


def without_handler(cpu: Cpu) -> str:
    """Return the first event of real mode that had no handler, or an empty text.

    Its vector was 0000:0000, as all are that the guest has not set: there is no firmware.
    """
    if not cpu.get("no_handlers"):
        return ""
    return (
        f"before, {_event(cpu, 'no_handler')} had no handler: its vector is 0000:0000, and there "
        "is no BIOS"
    )


def _event(cpu: Cpu, name: str) -> str:
    vector = cpu.get(f"{name}.vector")
    match cpu.get(f"{name}.source"):
        case Source.FROM_SOFTWARE:
            return f"INT {vector:02X}h"
        case Source.FROM_OUTSIDE:
            return f"interrupt {vector:02X}h"
    text = describe(vector, cpu.get(f"{name}.error"))
    return f"{text} at {cpu.get(f'{name}.cr2'):#x}" if vector == _PAGE_FAULT else text
