"""Frees a machine's memory at once, without waiting for Python's collection of cycles.

A processor holds the devices that it calls, and devices hold the processor and the machine that
they call: cycles of bound methods, which keep the guest's RAM until a collection happens to find
them.  Here the references to the processor are replaced, so that it is freed with the last of them.
"""

import gc
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

from ringlet.machine.cpu import Cpu
from ringlet.machine.vm import Vm

_FOLLOWED: Final = (MethodType, BuiltinFunctionType, FunctionType, partial, dict, list, tuple, set)
_OURS: Final = ("ringlet.devices.", "ringlet.machine.", "ringlet.debug.", "ringlet.control.")


def _gone(*arguments: object, **options: object) -> Any:
    """Stand for the processor of a machine that was taken apart; devices may still call it."""
    return 0


class Gone:
    """What a machine has in place of its processor once its memory is free; every call gives 0."""

    def __getattr__(self, name: str) -> Any:
        return _gone


def release(machine: Vm) -> None:
    """Free the processor of `machine` and its memory; the machine cannot run any more.

    The memory is free when the caller drops his own references to the processor.
    """
    take_out(machine)


def take_out(machine: Vm) -> Cpu:
    """Take the processor out of `machine`, which must not run, and return it."""
    cpu = machine.cpu
    found = _reachable(machine, cpu)
    cpu.attach_ports(_gone, _gone)
    cpu.attach_memory(_gone, _gone)
    cpu.attach_level(_gone)
    for thing in found:
        for name in _attributes(thing):
            value = getattr(thing, name, None)
            if value is cpu:
                object.__setattr__(thing, name, Gone())
            elif getattr(value, "__self__", None) is cpu:
                object.__setattr__(thing, name, _gone)
    return cpu


def _reachable(start: object, cpu: Cpu) -> list[object]:
    """Return the parts of a machine that lead to one another, but nothing within the processor."""
    seen = {id(start), id(cpu)}
    found: list[object] = []
    waiting = [start]
    while waiting:
        thing = waiting.pop()
        if _is_part(thing):
            found.append(thing)
        for one in _referents(thing):
            if id(one) not in seen and (_is_part(one) or isinstance(one, _FOLLOWED)):
                seen.add(id(one))
                waiting.append(one)
    return found


def _referents(thing: object) -> list[Any]:
    if isinstance(thing, FunctionType):  # its globals would lead everywhere
        return [cell.cell_contents for cell in thing.__closure__ or ()]
    return gc.get_referents(thing)


def _is_part(thing: object) -> bool:
    return type(thing).__module__.startswith(_OURS)


def _attributes(thing: object) -> list[str]:
    names = [*getattr(thing, "__dict__", {})]
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return names
