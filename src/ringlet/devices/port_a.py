"""System control port A (port 92h): the fast gate of A20, and the fast reset.

Bits (IBM PS/2 Hardware Interface Technical Reference; Intel ICH data sheets, PORT92): 0 resets the
processor when it rises, 1 enables A20.  A20 is enabled while any source enables it; the keyboard
controller is another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ringlet.devices.wiring import Line

RESET: Final = 1 << 0
A20: Final = 1 << 1


def _nothing() -> None:
    """Ignore a reset."""


@dataclass(slots=True)
class PortAState:
    """The register."""

    value: int = 0


class PortA:
    """Port 92h; `a20` is driven while it enables A20, `reset` is called for a reset."""

    def __init__(
        self, a20: Line, reset: Callable[[], None] = _nothing, *, enabled: bool = False
    ) -> None:
        self._a20 = a20
        self._reset = reset
        self._state = PortAState(A20 if enabled else 0)
        a20(enabled)

    def read(self, offset: int, size: int) -> int:
        """Return the register."""
        return self._state.value

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the register; a rising bit 0 resets the processor."""
        rises = value & ~self._state.value & RESET
        self._state.value = value & (RESET | A20)
        self._a20(bool(value & A20))
        if rises:
            self._reset()

    def save(self) -> PortAState:
        """Return a copy of the state."""
        return PortAState(self._state.value)

    def restore(self, state: PortAState) -> None:
        """Restore `state` and drive the line accordingly."""
        self._state = PortAState(state.value)
        self._a20(bool(state.value & A20))
