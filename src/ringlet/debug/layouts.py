"""The sets of registers for gdb, one for each size of code, and which of them it is given.

gdb takes the size of instructions, of addresses and of frames from the description of the target.
It reads the description when it connects, and again at `unset tdesc filename`.  Until then packets
have the registers of the description that it has read, whatever the mode is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ringlet.debug.registers import (
    SEGMENTS,
    Cpu,
    Feature,
    Register,
    avx,
    core,
    linux,
    sse,
    system,
)
from ringlet.machine.place import code_bits, in_long_mode


@dataclass(frozen=True, slots=True)
class Layout:
    """A set of registers, in the order of the description and of the `g` packet.

    `architecture` is gdb's name for the code; gdb may have files for those in `compatible`.
    """

    bits: int
    architecture: str
    compatible: tuple[str, ...]
    features: tuple[Feature, ...]

    @property
    def registers(self) -> tuple[Register, ...]:
        """Return the registers of all features."""
        return tuple(register for feature in self.features for register in feature.registers)

    @property
    def program_counter(self) -> Register:
        """Return the register that gdb takes for the program counter."""
        return next(register for register in self.registers if register.kind == "code_ptr")

    def holds(self, linear: int) -> bool:
        """Return whether the program counter can have this value."""
        return not linear >> self.program_counter.bits


_WIDE: Final = (core(64), sse(16), linux(64), SEGMENTS, avx(16), system(64))
_NARROW: Final = (core(32), sse(8), linux(32), avx(8), system(32))
LAYOUTS: Final = {
    16: Layout(16, "i8086", ("i386", "i386:x86-64"), _NARROW),
    32: Layout(32, "i386", ("i386:x86-64",), _NARROW),
    64: Layout(64, "i386:x86-64", ("i386", "i8086"), _WIDE),
}
"""By the size of the code."""


@dataclass
class Choice:
    """Chooses a layout for a stopped processor.

    It is that of the mode.  But a kernel whose file is ELF64 (`wide`) has symbols that 32 bits
    cannot hold, and begins in another mode: it has that of 64-bit code from the start, until long
    mode has been active.  `fixed` is the size that the user wants, if not 0; `by_mode` says that
    the user wants the mode's, also there.
    """

    cpu: Cpu
    wide: bool = False
    fixed: int = field(default=0, init=False)
    by_mode: bool = field(default=False, init=False)

    def layout(self) -> Layout:
        """Return the layout for the processor as it is now."""
        if self.fixed:
            return LAYOUTS[self.fixed]
        if in_long_mode(self.cpu):
            self.wide = False
        return LAYOUTS[64 if self.wide and not self.by_mode else code_bits(self.cpu)]

    def ask(self, word: str) -> bool:
        """Take what the user wants: auto, mode, 16, 32 or 64; return False for another word."""
        if word not in {"auto", "mode", *map(str, LAYOUTS)}:
            return False
        self.fixed = int(word) if word.isdigit() else 0
        self.by_mode = word == "mode"
        return True


LayoutNow = Callable[[], Layout]
"""Returns the layout that gdb gets if it reads the description now."""
