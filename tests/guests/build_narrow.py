"""Builds the conformance programs for 16- and 32-bit code with gcc.

By hand: `python tests/guests/build_narrow.py segments OUTDIR` writes OUTDIR/segments.elf, an ELF32
program that `ringlet run --bare` enters in protected mode, as `qemu-system-x86_64 -kernel` does by
its Multiboot header.
"""

import subprocess
import sys
from pathlib import Path

from tests.guests.build_guest import CFLAGS, LDFLAGS

PROGRAMS = Path(__file__).with_name("narrow")
SUPPORT = PROGRAMS / "support"
LIBRARY = ("start.S", "narrow.c")
_WIDE = {"-mno-red-zone"}
"""What only 64-bit code has."""


def narrow_names() -> list[str]:
    """Return every program's name."""
    return sorted(path.stem for path in PROGRAMS.glob("*.c"))


def build_narrow(name: str, directory: Path, programs: Path = PROGRAMS) -> Path:
    """Compile and link program `name` into `directory`; a compiler error is raised."""
    image = directory / f"{name}.elf"
    sources = [programs / f"{name}.c", *(SUPPORT / part for part in LIBRARY)]
    flags = [flag for flag in CFLAGS if flag not in _WIDE]
    command = ["gcc", "-m32", "-march=i686", *flags, f"-I{SUPPORT}", f"-T{SUPPORT / 'narrow.ld'}"]
    command += [*LDFLAGS, "-Wl,-e,_start", "-o", str(image), *map(str, sources)]
    subprocess.run(command, check=True, timeout=60)
    return image


if __name__ == "__main__":
    print(build_narrow(sys.argv[1], Path(sys.argv[2])))
