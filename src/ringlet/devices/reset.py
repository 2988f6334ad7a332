"""The reset control register (port CF9h) of Intel's PCI chip sets (82371SB data sheet, RC).

A write that sets RST_CPU, which was clear, resets the machine.  SYS_RST says how hard: there is
one kind here, a reset of everything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SYS_RST: Final = 1 << 1
RST_CPU: Final = 1 << 2
FULL_RST: Final = 1 << 3  # power cycle; kept
_WRITABLE: Final = SYS_RST | RST_CPU | FULL_RST

RESET_VALUE: Final = SYS_RST | RST_CPU
"""What the FADT tells the guest to write."""


@dataclass(slots=True)
class ResetControlState:
    """The register."""

    value: int = 0


class ResetControl:
    """One port; `reset` is called when the guest resets the machine."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset
        self._s = ResetControlState()

    def read(self, offset: int, size: int) -> int:
        """Return the register."""
        return self._s.value

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the register; the rise of RST_CPU is a reset."""
        rises = value & ~self._s.value & RST_CPU
        self._s.value = value & _WRITABLE
        if rises:
            self._reset()

    def save(self) -> ResetControlState:
        """Return a copy of the state."""
        return ResetControlState(self._s.value)

    def restore(self, state: ResetControlState) -> None:
        """Take over `state`."""
        self._s = ResetControlState(state.value)
