"""Builds the bare guest programs with gcc.

By hand: `python tests/guests/build_guest.py hello OUTDIR` writes OUTDIR/hello.elf, which
`ringlet run --bare` enters in long mode, and OUTDIR/hello.qemu.elf, the same program behind a
stub for `qemu-system-x86_64 -kernel`.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

GUESTS = Path(__file__).resolve().parent
SUPPORT = GUESTS / "support"
PROGRAMS = GUESTS / "conformance"

# The compiler must not use vector registers or the x87 by itself: the programs test them.
CFLAGS = (
    "-std=gnu11", "-O1", "-g", "-ffreestanding", "-nostdlib", "-static", "-fno-pie", "-no-pie",
    "-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns",
    "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror",
)
LDFLAGS = (
    "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096", "-Wl,--no-warn-rwx-segments",
)
LIBRARY = (
    "crt0.S", "trap.S", "trap.c", "start.c", "print.c", "cpu.c", "paging.c", "operand.c",
)


@dataclass(frozen=True)
class Guest:
    """A built program: one image for each way of starting it."""

    name: str
    bare: Path
    pvh: Path


def program_names() -> list[str]:
    """Every program there is, by name."""
    return sorted(path.stem for path in PROGRAMS.glob("*.c"))


def build(name: str, directory: Path) -> Guest:
    """Compile and link program `name` into `directory`; a compiler error is raised."""
    guest = Guest(name, directory / f"{name}.elf", directory / f"{name}.qemu.elf")
    sources = [PROGRAMS / f"{name}.c", *(SUPPORT / part for part in LIBRARY)]
    _link(guest.bare, sources)
    _link(guest.pvh, [*sources, SUPPORT / "qemu_stub.S"])
    return guest


def _link(image: Path, sources: list[Path]) -> None:
    command = ["gcc", *CFLAGS, f"-I{SUPPORT}", f"-T{SUPPORT / 'guest.ld'}", *LDFLAGS]
    command += ["-Wl,-e,_start", "-o", str(image), *map(str, sources)]
    subprocess.run(command, check=True, timeout=60)


if __name__ == "__main__":
    built = build(sys.argv[1], Path(sys.argv[2]))
    print(built.bare, built.pvh)
