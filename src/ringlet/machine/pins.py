"""The processor's pins: what the devices around it may ask of it, until they are cut.

Devices hold the pins and never the processor, which holds the devices that it calls.  Once both
sides have let go, no cycle of references keeps the guest's memory.
"""

from typing import Any, Protocol

from ringlet.machine.cpu import Cpu


class Asked(Protocol):
    """The methods of a processor that are left to devices, and to who ends a machine."""

    def set_interrupt(self, pending: bool) -> None: ...
    def message(self, address: int, data: int) -> None: ...
    def drop_code(self, address: int, size: int) -> None: ...
    def add_doorbell(self, address: int, size: int, value: int | None, fd: int) -> bool: ...
    def remove_doorbell(self, address: int, size: int, value: int | None) -> None: ...
    def mask_a20(self, masked: bool) -> None: ...
    def kick(self) -> None: ...
    def set_alarm(self, due: int | None) -> None: ...


class Pins:
    """The pins of `cpu`; after `cut` nothing comes of a call."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu: Asked = cpu

    def set_interrupt(self, pending: bool) -> None:
        """Drive the INTR pin."""
        self._cpu.set_interrupt(pending)

    def message(self, address: int, data: int) -> None:
        """Send a message to the local APIC.  Any thread may."""
        self._cpu.message(address, data)

    def drop_code(self, address: int, size: int) -> None:
        """Drop the translations of guest physical memory."""
        self._cpu.drop_code(address, size)

    def add_doorbell(self, address: int, size: int, value: int | None, fd: int) -> bool:
        """Let a write notify `fd`; return whether there was room for that."""
        return self._cpu.add_doorbell(address, size, value, fd)

    def remove_doorbell(self, address: int, size: int, value: int | None) -> None:
        """Forget a doorbell."""
        self._cpu.remove_doorbell(address, size, value)

    def mask_a20(self, masked: bool) -> None:
        """Drive the A20M pin."""
        self._cpu.mask_a20(masked)

    def cut(self) -> None:
        """Let go of the processor."""
        self._cpu = Unplugged()


class Unplugged:
    """Stands for the processor of a machine that was taken apart; nothing comes of a call."""

    def set_interrupt(self, pending: bool) -> None:
        """Do nothing."""

    def mask_a20(self, masked: bool) -> None:
        """Do nothing."""

    def message(self, address: int, data: int) -> None:
        """Do nothing."""

    def drop_code(self, address: int, size: int) -> None:
        """Do nothing."""

    def add_doorbell(self, address: int, size: int, value: int | None, fd: int) -> bool:
        """Do nothing: there is no room."""
        return False

    def remove_doorbell(self, address: int, size: int, value: int | None) -> None:
        """Do nothing."""

    def kick(self) -> None:
        """Do nothing: nothing runs."""

    def set_alarm(self, due: int | None) -> None:
        """Do nothing."""


def detach(cpu: Cpu) -> None:
    """Have `cpu`, which must not run, forget the devices that it calls."""
    cpu.attach_ports(_nothing, _nothing)
    cpu.attach_memory(_nothing, _nothing)
    cpu.attach_level(_nothing)


def _nothing(*arguments: object) -> Any:
    return 0
