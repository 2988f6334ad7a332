"""Answers gdb's `monitor` commands."""

from collections.abc import Callable
from typing import Final, Protocol

from ringlet.debug import registers
from ringlet.debug.layouts import Choice
from ringlet.machine.place import mode

_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
_UNUSABLE: Final = 1 << 16
"""Our bit of a segment's rights (core/state.pxd)."""
_HELP: Final = """\
monitor counters: show the run's counters
monitor mode: show the processor's mode
monitor segments: show the segment registers with their bases, and the tables' registers
monitor bits 16|32|64|mode|auto: the size of code that gdb is told, when it reads the description
    of the processor anew by: unset tdesc filename
"""


class Cpu(registers.Cpu, Protocol):
    """The part of a processor that the commands show."""

    def get_table(self, name: str) -> tuple[int, int]: ...


class Monitor:
    """The commands about `cpu`; `counters` returns those of the run."""

    def __init__(self, cpu: Cpu, choice: Choice, counters: Callable[[], dict[str, int]]) -> None:
        self._cpu = cpu
        self._choice = choice
        self._counters = counters

    def answer(self, command: str) -> str:
        """Return the text that answers `command`."""
        match command.split():
            case ["counters"]:
                rows = self._counters().items()
                return "".join(f"{name} {value}\n" for name, value in rows if value)
            case ["mode"]:
                return f"{mode(self._cpu)}, CPL {self._cpu.get('cpl')}\n"
            case ["segments"]:
                return self._segments()
            case ["bits", word] if self._choice.ask(word):
                return (
                    f"gdb is told of {self._choice.layout().bits}-bit code when it reads the "
                    "description: unset tdesc filename\n"
                )
            case _:
                return _HELP

    def _segments(self) -> str:
        lines = [f"{mode(self._cpu)}, CPL {self._cpu.get('cpl')}"]
        for index, name in enumerate(_SEGMENTS):
            selector, base, limit, rights = self._cpu.get_segment(index)
            null = "  null" if rights & _UNUSABLE else ""
            lines.append(
                f"{name:<4} {selector:04x}  base {base:08x}  limit {limit:08x}  "
                f"rights {rights & 0xFFFF:04x}{null}"
            )
        for name in ("gdtr", "idtr"):
            base, limit = self._cpu.get_table(name)
            lines.append(f"{name}       base {base:08x}  limit {limit:08x}")
        return "\n".join([*lines, ""])
