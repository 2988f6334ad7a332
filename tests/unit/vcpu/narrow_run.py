"""Programs of 16- and 32-bit code, assembled and run from the reset of real mode to a HLT."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from ringlet.core.state import Exit
from ringlet.vcpu.processor import Processor

RAM = 4 << 20
START = 0x1000
"""Where programs are, and where they begin; all are linked at this address."""
STACK = 0x800
RESULT = 0x20000
"""Where programs leave their results, by convention."""


@cache
def assemble(source: str) -> bytes:
    """Return the bytes of a program, linked at `START`."""
    with tempfile.TemporaryDirectory() as folder:
        text, made, image = (Path(folder) / name for name in ("a.s", "a.o", "a.bin"))
        text.write_text(source)
        subprocess.run(["as", "--32", "-o", made, text], check=True)
        subprocess.run(
            ["ld", "-m", "elf_i386", f"-Ttext={START:#x}", "--oformat=binary", "-e", "0",
             "-o", image, made], check=True,
        )  # fmt: skip
        return image.read_bytes()


class Program:
    """A processor that has run a program from real mode to its HLT."""

    def __init__(self, source: str) -> None:
        self.p = p = Processor(RAM)
        p.write_phys(START, assemble(source))
        for index in range(6):
            p.set_segment(index, 0, 0, 0xFFFF, 0x9B if index == 1 else 0x93)
        p.set_table("idtr", 0, 0x3FF)
        p.set("cr0", 0x10)
        p.set("rflags", 2)
        p.set("rsp", STACK)
        p.set("rip", START)
        self.exit = int(p.run())

    def get(self, name: str) -> int:
        """Return a register."""
        return int(self.p.get(name))

    def results(self, count: int) -> list[int]:
        """Return what the program has written at `RESULT`, in doublewords."""
        return list(struct.unpack(f"<{count}I", self.p.read_phys(RESULT, 4 * count)))

    def halted(self) -> bool:
        """Return whether the program has reached its HLT."""
        return self.exit == Exit.EXIT_HLT
