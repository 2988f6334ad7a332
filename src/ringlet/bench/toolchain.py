"""Builds the benchmark programs with the host's gcc, once for each state of their sources.

A program's own sources are compiled once; the very same objects are linked with the native
run-time layer (a static Linux program without a C library) and with the bare guest's.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ringlet.errors import HostError
from ringlet.images.cpio import CpioWriter

SOURCES = Path(__file__).parent / "programs"

COMMON = (
    "-std=gnu11", "-O2", "-ffreestanding", "-fno-stack-protector", "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
    # gcc must not turn the loop of memset into a call of memset.
    "-fno-tree-loop-distribute-patterns",
)  # fmt: skip
PROGRAM = (*COMMON, "-fno-pic", "-falign-functions=64")
# A kernel leaves ring 3's vector registers alone.
KERNEL = (*COMMON, "-fvisibility=hidden", "-mgeneral-regs-only", "-mno-red-zone")
LINK = ("-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-z,noexecstack")
LINK_GUEST = (*LINK, "-Wl,--no-warn-rwx-segments")


@dataclass(frozen=True)
class Width:
    """How code of one width is compiled: gcc's flags, and the guest's kernel with its own."""

    flags: tuple[str, ...]
    kernel: str
    kernel_flags: tuple[str, ...]


WIDTHS = {
    # The 64-bit kernel is linked elsewhere than where it runs: its addresses are RIP-relative.
    64: Width((), "guest", (*KERNEL, "-fpie")),
    # Debian's i386 packages are for this processor and those that came after it.
    32: Width(("-m32", "-march=i686"), "guest32", (*KERNEL, "-fno-pic")),
}

PROGRAMS = ("cpu", "nano", "real")
LINUX, DRIVER = "linux", "driver"
# The sections of `cpu` that the program `linux` includes.
LINUX_SECTIONS = ("measure", "chase", "heapsort", "quicksort", "fib", "matmul", "crc32")


@dataclass(frozen=True)
class Program:
    """One benchmark program: a Linux executable and a guest.

    Without `kernel`, the guest is a bare program (`ringlet run --bare`); with `kernel`, it is an
    initial RAM disk for that Linux.  The arguments are those of the executable, and of the guest's
    kernel besides the usual ones.
    """

    name: str
    native: Path
    guest: Path
    kernel: Path | None = None
    native_arguments: tuple[str, ...] = ()
    kernel_arguments: str = ""


def cache_directory() -> Path:
    """Return the directory of everything made or fetched for benchmarks (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ringlet" / "bench"


def build(name: str, cache: Path | None = None, bits: int = 64) -> Program:
    """Return the program `name`, and build it unless its sources are unchanged since a build.

    `bits` is the width of its code, 64 or 32.  Raises HostError if gcc is missing or fails.
    """
    compiler, directory = _prepare(cache, bits)
    program = Program(name, directory / name, directory / f"{name}.elf")
    if not (program.native.exists() and program.guest.exists()):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            built = _build(compiler, name, Path(scratch), bits)
            built.native.replace(program.native)
            built.guest.replace(program.guest)
    return program


def build_linux(kernel: Path, cache: Path | None = None, bits: int = 64) -> Program:
    """Return the program `linux`, whose guest is `kernel` with the executable as its init.

    `bits` is the width of the executable, 64 or 32.  Raises HostError if gcc is missing or fails.
    """
    compiler, directory = _prepare(cache, bits)
    program = Program(LINUX, directory / LINUX, directory / f"{LINUX}.cpio", kernel)
    if not (program.native.exists() and program.guest.exists()):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as name:
            scratch = Path(name)
            sections = [SOURCES / "cpu" / f"{section}.c" for section in LINUX_SECTIONS]
            objects = _objects(compiler, scratch, "program_", PROGRAM, "lib")
            objects += _compile(compiler, PROGRAM, sections, scratch, "program_")
            objects += _objects(compiler, scratch, "program_", PROGRAM, LINUX)
            objects += _objects(compiler, scratch, "native_", PROGRAM, "native", "native.c")
            built = scratch / LINUX
            _run([*compiler, *LINK, "-o", str(built), *objects])
            disk = scratch / program.guest.name
            disk.write_bytes(_initial_disk(built.read_bytes()))
            disk.replace(program.guest)
            built.replace(program.native)
    return program


def build_driver(cache: Path | None = None) -> Path:
    """Return the driver of `ringlet bench programs`, which natively and in guests is the same.

    Raises HostError if gcc is missing or fails.
    """
    compiler, directory = _prepare(cache)
    driver = directory / DRIVER
    if not driver.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as name:
            scratch = Path(name)
            objects = _objects(compiler, scratch, "program_", PROGRAM, "lib")
            objects += _objects(compiler, scratch, "program_", PROGRAM, DRIVER)
            built = scratch / DRIVER
            _run([*compiler, *LINK, "-o", str(built), *objects])
            built.replace(driver)
    return driver


def _initial_disk(init: bytes) -> bytes:
    archive = CpioWriter()
    archive.directory("dev")
    # The kernel opens /dev/console for init.
    archive.character_device("dev/console", 5, 1)
    archive.file("init", init, 0o755)
    return archive.contents()


def _prepare(cache: Path | None, bits: int = 64) -> tuple[Sequence[str], Path]:
    """Return how to call the compiler, and the directory for this state of the sources."""
    found = shutil.which("gcc")
    if found is None:
        raise HostError("the benchmarks are compiled on this host; install gcc and binutils")
    compiler = (found, *WIDTHS[bits].flags)
    return compiler, (cache or cache_directory()) / "programs" / _fingerprint(compiler)


def _fingerprint(compiler: Sequence[str]) -> str:
    """Return a name for the state of all sources, the flags and the compiler."""
    digest = hashlib.sha256(_run([*compiler, "--version"]).encode())
    digest.update(repr((compiler, PROGRAM, WIDTHS, LINK_GUEST)).encode())
    for path in sorted(p for p in SOURCES.rglob("*") if p.suffix in {".c", ".h", ".S", ".ld"}):
        digest.update(str(path.relative_to(SOURCES)).encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build(compiler: Sequence[str], name: str, scratch: Path, bits: int) -> Program:
    objects = partial(_objects, compiler, scratch)
    program = objects("program_", PROGRAM, "lib") + objects("program_", PROGRAM, name)
    pattern = "*.c" if bits == 64 else "native.c"
    native = objects("native_", PROGRAM, "native", pattern)
    # The linker script recognizes the kernel's objects by the start of their names.
    user = objects("user_", PROGRAM, "bare", "user.c")
    width = WIDTHS[bits]
    kernel = objects("kernel_", width.kernel_flags, "bare", "serial.c")
    kernel += objects("kernel_", width.kernel_flags, width.kernel)
    kernel += objects("asm_", (), width.kernel, "*.S")
    result = Program(name, scratch / name, scratch / f"{name}.elf")
    _run([*compiler, *LINK, "-o", str(result.native), *native, *program])
    script = f"-Wl,-T,{SOURCES / 'bare' / 'guest.ld'}"
    _run([*compiler, *LINK_GUEST, script, "-o", str(result.guest), *kernel, *user, *program])
    return result


def _objects(
    compiler: Sequence[str],
    scratch: Path,
    prefix: str,
    flags: Sequence[str],
    directory: str,
    pattern: str = "*.c",
) -> list[str]:
    sources = sorted((SOURCES / directory).glob(pattern))
    return _compile(compiler, flags, sources, scratch, prefix)


def _compile(
    compiler: Sequence[str],
    flags: Sequence[str],
    sources: Iterable[Path],
    scratch: Path,
    prefix: str,
) -> list[str]:
    made = []
    for source in sources:
        target = str(scratch / f"{prefix}{source.parent.name}_{source.stem}.o")
        _run([*compiler, *flags, f"-I{SOURCES / 'lib'}", "-c", str(source), "-o", target])
        made.append(target)
    return made


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = next((line for line in result.stderr.splitlines() if "error" in line), "")
        raise HostError(f"{Path(command[0]).name} cannot build the benchmark: {reason.strip()}")
    return result.stdout
