"""A machine with what its user is connected to: its serial ports."""

from dataclasses import dataclass

from ringlet.devices.uart16550 import Uart16550
from ringlet.machine.vm import Vm


@dataclass(frozen=True, slots=True)
class Wired:
    """A wired machine; `coms` are its serial ports, COM1 first."""

    machine: Vm
    coms: tuple[Uart16550, ...]
