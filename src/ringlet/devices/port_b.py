"""System control port B (port 61h): the speaker's gate and the output of the 8254's counter 2.

Bits (IBM PC/AT): 0 gate of counter 2, 1 speaker data, 4 refresh toggle (read only; it changes with
every read, because software only waits for a change), 5 output of counter 2 (read only).
"""

from collections.abc import Callable
from dataclasses import dataclass

GATE2 = 1 << 0
SPEAKER = 1 << 1
REFRESH = 1 << 4
OUT2 = 1 << 5


@dataclass(slots=True)
class PortBState:
    """The writable bits and the refresh toggle."""

    control: int = 0
    refresh: int = 0


class PortB:
    """Port 61h; `set_gate` drives and `read_out` reads counter 2 of the interval timer."""

    def __init__(self, set_gate: Callable[[bool], None], read_out: Callable[[], bool]) -> None:
        self._set_gate = set_gate
        self._read_out = read_out
        self._state = PortBState()
        set_gate(False)

    def read(self, offset: int, size: int) -> int:
        """Return the port's value; each read toggles the refresh bit."""
        state = self._state
        state.refresh ^= REFRESH
        return state.control | state.refresh | (OUT2 if self._read_out() else 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the gate of counter 2 and the speaker's data bit."""
        self._state.control = value & (GATE2 | SPEAKER)
        self._set_gate(bool(value & GATE2))

    def save(self) -> PortBState:
        """Return a copy of the state."""
        return PortBState(self._state.control, self._state.refresh)

    def restore(self, state: PortBState) -> None:
        """Restore `state`.  The gate itself is part of the timer's state."""
        self._state = PortBState(state.control, state.refresh)
