"""The reasons why the guest stopped, and the breakpoints and watchpoints that make it stop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

MAX_BREAKPOINTS: Final = 256
MAX_WATCHPOINTS: Final = 4

SIGINT, SIGTRAP, SIGABRT = 2, 5, 6


class Kind(IntEnum):
    """The kinds of points of gdb's Z packets."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE = 2
    READ = 3
    ACCESS = 4


_WORDS: Final = {
    Kind.SOFTWARE: b"swbreak:;",
    Kind.HARDWARE: b"hwbreak:;",
    Kind.WRITE: b"watch:",
    Kind.READ: b"rwatch:",
    Kind.ACCESS: b"awatch:",
}
_KINDS: Final = {Kind.WRITE: 2, Kind.READ: 1, Kind.ACCESS: 3}
"""Bits of `Processor.set_watchpoints`."""

Watch = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Stop:
    """A signal in gdb's numbering, and details about the stop."""

    signal: int
    detail: bytes = b""

    def reply(self) -> bytes:
        """Return the stop reply packet."""
        return b"T%02xthread:1;%b" % (self.signal, self.detail)


@dataclass
class Points:
    """The breakpoints and watchpoints, passed on to `set_breakpoints` and `set_watchpoints`."""

    set_breakpoints: Callable[[Sequence[int]], None]
    set_watchpoints: Callable[[Sequence[Watch]], None]
    breaks: dict[int, set[Kind]] = field(default_factory=dict)
    watches: list[tuple[Kind, int, int]] = field(default_factory=list)

    def insert(self, kind: Kind, linear: int, size: int) -> bool:
        """Set a point if it is not set; return False if there is no room or no such kind."""
        if kind <= Kind.HARDWARE:
            if linear not in self.breaks and len(self.breaks) == MAX_BREAKPOINTS:
                return False
            self.breaks.setdefault(linear, set()).add(kind)
            self.set_breakpoints([*self.breaks])
            return True
        watch = (kind, linear, size)
        if watch in self.watches:
            return True
        if size not in {1, 2, 4, 8} or len(self.watches) == MAX_WATCHPOINTS:
            return False
        self.watches.append(watch)
        self._tell_watches()
        return True

    def remove(self, kind: Kind, linear: int, size: int) -> None:
        """Remove a point if it is set."""
        if kind <= Kind.HARDWARE:
            kinds = self.breaks.get(linear, set())
            kinds.discard(kind)
            if not kinds and self.breaks.pop(linear, None) is not None:
                self.set_breakpoints([*self.breaks])
        elif (kind, linear, size) in self.watches:
            self.watches.remove((kind, linear, size))
            self._tell_watches()

    def clear(self) -> None:
        """Remove all points."""
        if self.breaks:
            self.breaks.clear()
            self.set_breakpoints([])
        if self.watches:
            self.watches.clear()
            self._tell_watches()

    def _tell_watches(self) -> None:
        self.set_watchpoints([(linear, size, _KINDS[kind]) for kind, linear, size in self.watches])

    def break_hit(self, rip: int) -> Stop:
        """Return the stop at a breakpoint before the instruction at `rip`."""
        kinds = self.breaks.get(rip)
        return Stop(SIGTRAP, _WORDS[min(kinds)] if kinds else b"")

    def watch_hit(self, hits: int) -> Stop:
        """Return the stop after an access to the watchpoints in the bit set `hits`."""
        for number, (kind, linear, _) in enumerate(self.watches):
            if hits >> number & 1:
                return Stop(SIGTRAP, b"%b%x;" % (_WORDS[kind], linear))
        return Stop(SIGTRAP)
