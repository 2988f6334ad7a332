"""The reset control register (port CF9h) of Intel's PCI chip sets (82371SB data sheet, RC).

A write that sets the clear bit RST_CPU resets the machine.  SYS_RST selects the kind of reset on
real chip sets; here every reset resets everything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SYS_RST: Final = 1 << 1
RST_CPU: Final = 1 << 2
FULL_RST: Final = 1 << 3  # power cycle; stored without effect
_WRITABLE: Final = SYS_RST | RST_CPU | FULL_RST

RESET_VALUE: Final = SYS_RST | RST_CPU
"""The value that the FADT tells the guest to write."""


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
        """Write the register; setting RST_CPU resets the machine."""
        rises = value & ~self._s.value & RST_CPU
        self._s.value = value & _WRITABLE
        if rises:
            self._reset()

    def save(self) -> ResetControlState:
        """Return a copy of the state."""
        return ResetControlState(self._s.value)

    def restore(self, state: ResetControlState) -> None:
        """Restore `state`."""
        self._s = ResetControlState(state.value)
