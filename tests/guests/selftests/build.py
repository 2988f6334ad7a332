"""Builds the self-tests with the host's gcc: one static program, which is a guest's init too."""

import re
import shutil
import subprocess
from pathlib import Path

from ringlet.errors import HostError
from ringlet.images.cpio import CpioWriter

SOURCES = Path(__file__).with_name("sources")
FLAGS = (
    "-std=gnu11", "-O1", "-static", "-no-pie", "-fno-pie", "-pthread",
    "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
    # Tests run in the order of their sources.
    "-fno-toplevel-reorder", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip
_TEST = re.compile(r"^TEST\((\w+), (\w+)\)$", re.MULTILINE)
KERNEL_LOG = "kernel.log"
"""The name of the last verdict, on the kernel's messages."""


def names() -> list[str]:
    """Return every test's name as in its verdict."""
    found = [
        f"{group}.{name}"
        for path in sorted(SOURCES.glob("*.c"))
        for group, name in _TEST.findall(path.read_text())
    ]
    return [*found, KERNEL_LOG]


def build(directory: Path) -> Path:
    """Compile the program into `directory`.  Raises HostError if there is no compiler."""
    if shutil.which("gcc") is None:
        raise HostError("the self-tests are compiled on this host: install gcc and libc6-dev")
    program = directory / "selftests"
    sources = [*sorted(SOURCES.glob("*.c")), *sorted(SOURCES.glob("*.S"))]
    done = subprocess.run(
        ["gcc", *FLAGS, "-o", str(program), *map(str, sources)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"gcc cannot build the self-tests:\n{done.stderr}")
    return program


def archive(program: Path) -> bytes:
    """Return an initial RAM disk that contains only the program."""
    files = CpioWriter()
    files.directory("dev")
    # The kernel opens /dev/console for init.
    files.character_device("dev/console", 5, 1)
    files.file("init", program.read_bytes(), 0o755)
    return files.contents()
