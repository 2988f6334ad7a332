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
_KEEPERS: Final = ("ringlet.mmu.guest_memory", "ringlet.devices.virtio.queue")
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
            if _keeps(value, cpu):
                object.__setattr__(thing, name, Gone())
            elif _keeps(getattr(value, "__self__", None), cpu):
                object.__setattr__(thing, name, _gone)
            elif isinstance(value, list | tuple | dict) and _some_keep(value, cpu):
                object.__setattr__(thing, name, type(value)())
    return cpu


def _some_keep(values: list[Any] | tuple[Any, ...] | dict[Any, Any], cpu: Cpu) -> bool:
    """Return whether an item, or what an item calls or calls it with, keeps the processor."""
    items = values.values() if isinstance(values, dict) else values
    calls = (item for item in items if isinstance(item, partial))
    arguments = (argument for call in calls for argument in call.args)
    owners = (getattr(item, "__self__", None) for item in items)
    return any(_keeps(value, cpu) for value in (*items, *arguments, *owners))


def _keeps(value: object, cpu: Cpu) -> bool:
    """Return whether `value` is the processor, or a compiled object that keeps it alive."""
    return value is cpu or type(value).__module__ in _KEEPERS


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
