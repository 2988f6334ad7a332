"""Assembles small images of 16- and 32-bit code with GNU as and ld.

A source is in AT&T syntax and starts at its first byte.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

NEEDED = ("as", "ld", "objcopy")

needs_assembler = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason="no GNU assembler"
)

PRINT_AND_END = """
print:                                  # the text at %esi to COM1
    mov $0x3f8, %edx
1:  mov (%esi), %al
    inc %esi
    test %al, %al
    jz 2f
    out %al, %dx
    jmp 1b
2:  ret
fail:                                   # the status is 2 * %bl + 1
    mov %bl, %al
    out %al, $0xf4
    hlt
"""
"""For 32-bit code."""


def linked(source: str, directory: Path, *, start: int = 0x100000, bits: int = 32) -> Path:
    """Return an ELF executable of `source` linked at `start`; mode 16 is up to the source.

    A section .note.pvh is a page behind it.
    """
    text, object_file, image = (directory / f"image.{kind}" for kind in ("s", "o", "elf"))
    text.write_text(source)
    words = ["as", f"--{max(bits, 32)}", "-o", str(object_file), str(text)]
    subprocess.run(words, check=True, timeout=60)
    emulation = "elf_x86_64" if bits == 64 else "elf_i386"
    words = ["ld", "-m", emulation, "-N", "--no-warn-rwx-segments", "-e", hex(start)]
    words += [f"-Ttext={start:#x}", f"--section-start=.note.pvh={start + 0x1000:#x}"]
    words += ["-o", str(image), str(object_file)]
    subprocess.run(words, check=True, timeout=60)
    return image


def flat(source: str, directory: Path, *, start: int, bits: int = 32) -> Path:
    """Return a flat image of `source` linked at `start`."""
    elf = linked(source, directory, start=start, bits=bits)
    image = directory / "image.bin"
    words = ["objcopy", "-O", "binary", "-j", ".text", str(elf), str(image)]
    subprocess.run(words, check=True, timeout=60)
    return image
